"""A second, independent implementation of the Dat protocol as it is deployed (hypercore 6).

It is written to be read beside the protocol's documents and to judge other implementations, not
to be fast. It needs the Python standard library and libsodium. Bottom up:

    sodium    the few libsodium functions that are used
    wire      varints, frames, messages
    cipher    the stream cipher of a connection, and its switch from clear to cipher
    flat      flat-tree numbering
    bitfield  bits, the run-length code of Have, the page of the SLEEP bitfield file
    tree      hashes, digests, proofs, verification
    feed      a feed in memory: append, prove, verify and put
    sleep     SLEEP folders: read, write, audit
    peer      a scripted peer on a TCP socket, and a correct simple server and downloader
    drive     drives: messages, index, log, a drive in memory, on disk and on a connection
    content   the content of the vectors, by seed
    evil      drives that no honest owner would make
"""
