"""Flat-tree numbering (DEP 0002, 'flat tree').

Block b is the leaf 2b. The node at `depth` d and `offset` o, counted from the left, has the
index (2o + 1) * 2^d - 1; so the parents of leaves are 1, 5, 9..., theirs 3, 11, 19...

         3
     1       5
   0   2   4   6
"""


def index(depth, offset):
    return (2 * offset + 1) * (1 << depth) - 1


def depth(node):
    """The number of one bits at the low end of the index."""
    levels = 0
    while node >> levels & 1:
        levels += 1
    return levels


def offset(node):
    return node >> depth(node) + 1


def parent(node):
    return index(depth(node) + 1, offset(node) // 2)


def sibling(node):
    return index(depth(node), offset(node) ^ 1)


def children(node):
    """The left and right child of a parent; None for a leaf."""
    if node % 2 == 0:
        return None
    below, left = depth(node) - 1, 2 * offset(node)
    return index(below, left), index(below, left + 1)


def left_span(node):
    """The leftmost leaf below the node."""
    return offset(node) << depth(node) + 1


def right_span(node):
    """The rightmost leaf below the node."""
    return (offset(node) + 1 << depth(node) + 1) - 2


def full_roots(blocks):
    """The roots of a feed of `blocks` blocks, left to right: the largest full subtrees."""
    roots, start = [], 0
    while start < blocks:
        size = 1 << (blocks - start).bit_length() - 1
        roots.append(2 * start + size - 1)
        start += size
    return roots
