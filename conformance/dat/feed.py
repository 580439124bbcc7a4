"""A feed in memory: append and sign, prove, verify and put (PROTOCOL 9, 11, 12)."""

from . import flat, sodium
from .bitfield import Bits
from .cipher import discovery_key
from .tree import (Tree, VerifyError, check_roots, leaf_node, parent_node, proof_indexes, root_hash,
                   verify)
from .wire import Data


def content_key_pair(metadata_secret_key):
    """The key pair of a drive's content feed, derived from that of its metadata feed."""
    return sodium.keypair(sodium.kdf(32, 1, b"hyperdri", metadata_secret_key[:32]))


class Feed:
    """One feed. `secret_key` makes it writable; `live=False` with no key makes a static one,
    whose key is known once `finalize` is called."""

    def __init__(self, key=None, secret_key=None, live=True):
        if key is None and live and secret_key is None:
            key, secret_key = sodium.keypair()
        elif key is None and secret_key is not None:
            key = secret_key[32:]  # an Ed25519 secret key ends with its public key
        self.key, self.secret_key, self.live = key, secret_key, live
        self.length = 0
        self.tree = Tree()
        self.blocks = {}  # index -> bytes
        self.bitfield = Bits()
        self.signatures = {}  # index of the last block that is signed -> signature

    @property
    def discovery_key(self):
        return discovery_key(self.key)

    @property
    def byte_length(self):
        return self.tree.byte_offset(self.length)

    @property
    def writable(self):
        return self.secret_key is not None

    def has(self, index):
        return self.bitfield.get(index)

    @property
    def complete(self):
        return self.bitfield.count() == self.length

    # -- the writer --

    def append(self, *batch):
        """Add blocks; one signature is made for the whole batch. Returns the first's index."""
        first = self.length
        for data in batch:
            self.tree.append(data, self.length)
            self.blocks[self.length] = bytes(data)
            self.bitfield.set(self.length)
            self.length += 1
        if batch and self.live:
            self.signatures[self.length - 1] = sodium.sign(self.root_hash(), self.secret_key)
        return first

    def root_hash(self, length=None):
        return root_hash(self.tree.roots(self.length if length is None else length))

    def finalize(self):
        """Give a static feed its key: the hash of its roots."""
        self.key = self.root_hash()

    # -- the server --

    def answer(self, request, remote=None):
        """The Data for this Request, or None where we have no such node or no such block.

        `remote` is the Holding that remembers the digests of this asker.
        """
        nodes = 0 if request.nodes is None else request.nodes
        index = request.index
        if request.bytes:
            try:
                index, nodes = self.tree.find_byte(request.bytes, self.length), 0
            except VerifyError:
                pass  # the deployed code then falls back to the index
        proof = proof_indexes(self.tree.holding, 2 * index, nodes, bool(request.hash), remote)
        if proof is None or not (request.hash or self.has(index)):
            return None
        indexes, length = proof
        signature = None
        if length and self.live:
            signature = self.signatures.get(length - 1)
            if signature is None:
                return None  # nothing that we hold proves it
        value = None if request.hash else self.blocks[index]
        return Data(index, value, [self.tree.get(i) for i in indexes], signature)

    # -- the downloader --

    def digest(self, index):
        """Request.nodes for this block."""
        return self.tree.holding.digest(2 * index)

    def put(self, data):
        """Verify a Data and store it. VerifyError leaves everything as it was."""
        verified = verify(self.tree, self.key, data)
        for node in verified.nodes:
            self.tree.put(node)
        if verified.length:
            self.length = max(self.length, verified.length)
            if verified.signature is None:
                self.live = False
            else:
                self.signatures[verified.length - 1] = verified.signature
        if data.value is not None:
            self.blocks[data.index] = bytes(data.value)
            self.bitfield.set(data.index)

    # -- the auditor --

    def audit(self):
        """What is wrong, as sentences: each block against its leaf, every parent against its
        children, each leaf's way up to a root, the roots against the signature or the key."""
        problems = []
        for i in self.bitfield:
            if i >= self.length:
                problems.append("block %d is claimed beyond the length %d" % (i, self.length))
            elif 2 * i not in self.tree:
                problems.append("block %d is claimed without its leaf" % i)
            elif i not in self.blocks:
                problems.append("block %d is claimed without its data" % i)
            elif leaf_node(i, self.blocks[i]) != self.tree.get(2 * i):
                problems.append("block %d does not hash to its leaf" % i)
        signed, unsigned = self._audit_roots()
        return problems + unsigned + self._audit_tree(signed)

    def _audit_roots(self):
        """(the roots that a signature or the key vouches for, problems)."""
        signed, problems = set(), []
        if self.live:
            lengths = {i + 1: signature for i, signature in self.signatures.items()}
            if self.length and self.length not in lengths:
                problems.append("length %d has no signature" % self.length)
        else:
            lengths = {self.length: None}
        for length, signature in sorted(lengths.items()):
            try:
                check_roots(self.tree.roots(length), self.key, signature)
                signed.update(flat.full_roots(length))
            except VerifyError as error:
                problems.append("length %d: %s" % (length, error))
        return signed, problems

    def _audit_tree(self, signed):
        """Every held node leads, through parents that hash, to a signed root.

        It may be a root of an earlier length: a reader that skipped blocks in between need not
        hold what links it to those of today.
        """
        problems = []
        for i in sorted(self.tree.nodes):
            parent, sibling = flat.parent(i), flat.sibling(i)
            if flat.right_span(i) >= 2 * self.length:
                problems.append("node %d is beyond the length %d" % (i, self.length))
            elif parent in self.tree and sibling in self.tree:
                if i < sibling and not self._makes_parent(i, sibling, parent):
                    problems.append("node %d does not hash to its parent" % i)
            elif i not in signed:
                problems.append("node %d is not linked to a root" % i)
        return problems

    def _makes_parent(self, left, right, parent):
        try:
            return parent_node(self.tree.get(left), self.tree.get(right)) == self.tree.get(parent)
        except VerifyError:  # sizes of more than 64 bits
            return False
