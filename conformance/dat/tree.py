"""The Merkle tree: hashes, digests, proofs, verification (PROTOCOL 9, 11, 12; DEP 0002).

A `Holding` says which nodes somebody holds; a `Tree` is one's own, with their hashes.
"""

from dataclasses import dataclass, field
from typing import List, Optional, Tuple

from . import flat, sodium
from .wire import MAX_UINT, Data, Node

MAX_LENGTH = 1 << 52  # blocks; what the deployed code can count exactly, with room to spare
MAX_INDEX = 2 * MAX_LENGTH - 2


class VerifyError(ValueError):
    """What a remote sent does not fit the feed."""


# ---- hashes -----------------------------------------------------------------------------------

def _u64be(number):
    if not 0 <= number <= MAX_UINT:
        raise VerifyError("sizes add up to more than 64 bits")
    return number.to_bytes(8, "big")


def leaf_node(block, data):
    """The leaf of block number `block`: H(00 | u64be length | data)."""
    hash = sodium.Hash().update(b"\x00" + _u64be(len(data))).update(data).final()
    return Node(2 * block, hash, len(data))


def parent_node(a, b):
    """H(01 | u64be sum of both sizes | left hash | right hash)."""
    left, right = sorted((a, b), key=lambda node: node.index)
    size = left.size + right.size
    hash = sodium.generichash(b"\x01" + _u64be(size) + left.hash + right.hash)
    return Node(flat.parent(left.index), hash, size)


def root_hash(roots):
    """H(02 | for each full root: hash, u64be tree index, u64be size): what is signed."""
    parts = (root.hash + _u64be(root.index) + _u64be(root.size) for root in roots)
    return sodium.generichash(b"\x02" + b"".join(parts))


# ---- who holds what ---------------------------------------------------------------------------

class Holding:
    """A set of tree indexes. Two children that are held imply their parent."""

    def __init__(self, indexes=()):
        self._held = set()
        self._highest = -1
        for i in indexes:
            self.set(i)

    def __contains__(self, i):
        return i in self._held

    def __iter__(self):
        return iter(sorted(self._held))

    def __len__(self):
        return len(self._held)

    def set(self, i):
        while i not in self._held:
            self._held.add(i)
            self._highest = max(self._highest, i)
            if flat.sibling(i) not in self._held:
                return
            i = flat.parent(i)

    def digest(self, i):
        """Request.nodes for tree index i: what its asker holds on the way up."""
        if i in self:
            return 1
        digest, uncle_bit = 0, 2
        uncle, parent = flat.sibling(i), flat.parent(i)
        # the deployed code stops at the last byte of its bitfield, and misses what it could tell of roots at its edge
        end = max(self._highest + 8 & ~7, uncle + 2)
        while flat.left_span(parent) > 0 or flat.right_span(uncle) < end:
            if uncle in self:
                digest |= uncle_bit
            if parent in self:
                digest |= 2 * uncle_bit | 1
                return 1 if digest + 1 == 4 * uncle_bit else digest
            uncle, parent = flat.sibling(parent), flat.parent(parent)
            uncle_bit *= 2
        return digest

    def learn(self, i, digest, mine):
        """Note what a digest for index i says; only nodes that are in `mine` matter.

        `self` is what the remote is known to hold: nothing that is learnt is forgotten.
        """
        parent_on_top, bits = digest & 1, digest >> 1
        node = i
        while bits:
            if bits == 1 and parent_on_top:
                self._learn_parent(node, mine)
                return
            uncle = flat.sibling(node)
            if bits & 1 and uncle in mine:
                self.set(uncle)
            node = flat.parent(node)
            bits >>= 1

    def _learn_parent(self, node, mine):
        """A held parent also says that the full roots left of it are held."""
        if node in mine:
            self.set(node)
        node = min(node, flat.sibling(node))
        for root in flat.full_roots(flat.right_span(node) // 2 + 1):
            if root in mine:
                self.set(root)

    def verified_length(self, i):
        """How many blocks the roots prove with which index i can be proven here (0: none).

        Climb while parent and sibling are held, then step right, each time into the largest
        subtree that is held.
        """
        if i not in self:
            return 0
        top = i
        while flat.parent(top) in self and flat.sibling(top) in self:
            top = flat.parent(top)
        edge = flat.right_span(top) + 2
        for depth in reversed(range(flat.depth(top))):
            node = flat.index(depth, edge >> depth + 1)
            if node in self:
                edge = flat.right_span(node) + 2
        return edge // 2

    def length(self):
        """The length that the deployed code finds on opening a feed with these nodes.

        Its largest root is the highest held one of the tree indexes 0, 1, 3, 7, 15...
        """
        top, node = None, 0
        while node <= self._highest:
            if node in self:
                top = node
            node = flat.parent(node)
        return 0 if top is None else self.verified_length(top)


def proof_indexes(mine, i, digest=0, hash=False, remote=None):
    """What proves tree index i to an asker: (tree indexes, length whose signature goes along).

    The length is 0 where a node that the asker knows already verifies. None if `mine` lacks i.
    `remote` is the Holding that remembers what this asker said earlier; it learns here.
    """
    if i not in mine:
        return None
    nodes = [i] if hash else []
    if digest == 1:
        return nodes, 0
    remote = Holding() if remote is None else remote
    remote.learn(i, digest, mine)
    node = i
    while node not in remote:
        sibling = flat.sibling(node)
        if sibling not in mine:  # so this is the largest subtree of ours around i
            length = mine.verified_length(node)
            roots = flat.full_roots(length)
            return nodes + [r for r in roots if r != node and r not in remote], length
        if sibling not in remote:
            nodes.append(sibling)
        node = flat.parent(node)
    return nodes, 0


# ---- one's own tree, and what it makes of a Data ----------------------------------------------

class Tree:
    """Nodes with their hashes, possibly few of many."""

    def __init__(self, nodes=()):
        self.nodes = {}
        self.holding = Holding()
        for node in nodes:
            self.put(node)

    def __contains__(self, i):
        return i in self.nodes

    def get(self, i):
        return self.nodes[i]

    def put(self, node):
        self.nodes[node.index] = node
        self.holding.set(node.index)

    def roots(self, length):
        """The full roots of this length; VerifyError where one is missing."""
        missing = [i for i in flat.full_roots(length) if i not in self]
        if missing:
            raise VerifyError("the roots %s are missing" % missing)
        return [self.nodes[i] for i in flat.full_roots(length)]

    def append(self, data, length):
        """Add the leaf of block number `length`, and the parents that it completes."""
        node = leaf_node(length, data)
        self.put(node)
        while flat.sibling(node.index) < node.index:
            node = parent_node(self.nodes[flat.sibling(node.index)], node)
            self.put(node)

    def byte_offset(self, block):
        """Where the block starts in the data: the sizes of all that is left of it."""
        return sum(root.size for root in self.roots(block))

    def find_byte(self, offset, length):
        """The block that holds this byte, or VerifyError where the nodes do not tell."""
        for i in flat.full_roots(length):
            root = self._need(i)
            if offset >= root.size:
                offset -= root.size
                continue
            while flat.children(i):
                left, right = flat.children(i)
                inside = offset < self._need(left).size
                offset -= 0 if inside else self.nodes[left].size
                i = left if inside else right
            return i // 2
        raise VerifyError("there is no byte %d" % offset)

    def _need(self, i):
        if i not in self:
            raise VerifyError("the node %d is missing" % i)
        return self.nodes[i]


@dataclass
class Verified:
    """What a Data proves: nodes to store, and the length and signature it comes with, if any."""
    nodes: List[Node] = field(default_factory=list)
    length: int = 0
    signature: Optional[bytes] = None
    roots: Tuple[Node, ...] = ()


def verify(tree, key, data: Data):
    """Check a Data message against the nodes we hold; VerifyError, or what to store.

    Its nodes are taken in the order in which they are sent: first the missing uncles from the
    bottom up (led by the leaf itself where there is no value), then other roots. With a
    signature the roots must be signed by `key`; without one, in a static feed, they hash to it.
    """
    remote = list(data.nodes)
    if data.index > MAX_INDEX // 2:
        raise VerifyError("block %d is out of range" % data.index)
    for node in remote:
        if len(node.hash) != sodium.HASH_BYTES:
            raise VerifyError("a hash of %d bytes" % len(node.hash))
        if node.index > MAX_INDEX:
            raise VerifyError("node %d is out of range" % node.index)
    if data.value is not None:
        top = leaf_node(data.index, data.value)
    elif remote:
        top = remote.pop(0)
        if top.index != 2 * data.index:
            raise VerifyError("the first node is not the leaf")
    else:
        raise VerifyError("neither a value nor a node")

    proven = [top]
    while top.index not in tree:
        sibling = flat.sibling(top.index)
        if remote and remote[0].index == sibling:
            other = remote.pop(0)
            proven.append(other)
        elif sibling in tree:
            other = tree.get(sibling)
        else:
            return _verify_roots(tree, key, data, top, proven, remote)
        top = parent_node(top, other)
        proven.append(top)
    if tree.get(top.index) != top:
        raise VerifyError("node %d is not the one we verified before" % top.index)
    return Verified(nodes=[node for node in proven if node.index not in tree])


def _verify_roots(tree, key, data, top, proven, remote):
    """`top` can only be a root. The verified length ends with it or with the last node sent."""
    last = remote[-1].index if remote else top.index
    length = max(flat.right_span(top.index), flat.right_span(last)) // 2 + 1
    if top.index not in flat.full_roots(length):
        raise VerifyError("node %d is not linked to the roots of length %d" % (top.index, length))
    roots = []
    for i in flat.full_roots(length):
        if i == top.index:
            roots.append(top)
        elif remote and remote[0].index == i:
            roots.append(remote.pop(0))
            proven.append(roots[-1])
        elif i in tree:
            roots.append(tree.get(i))
        else:
            raise VerifyError("root %d of length %d is missing" % (i, length))
    check_roots(roots, key, data.signature)
    return Verified([node for node in proven if node.index not in tree], length, data.signature,
                    tuple(roots))


def check_roots(roots, key, signature):
    """These roots are signed by `key`, or, without a signature, hash to it (a static feed)."""
    checksum = root_hash(roots)
    if signature is None:
        if checksum != key:
            raise VerifyError("no signature, and the roots do not hash to the key")
    elif not sodium.verify(checksum, signature, key):
        raise VerifyError("the signature does not verify")
