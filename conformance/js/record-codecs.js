'use strict'
// rle.json, digest.json, bitfield.json, crypto.json
const { load, block, keystream } = require('./common')
const rle = load('bitfield-rle')
const aligned = load('bitfield-rle').align(4)
const tree = load('hypercore/lib/tree-index')
const pages = load('hypercore/lib/bitfield')
const flat = load('flat-tree')
const hash = load('hypercore-crypto')
const sodium = load('sodium-universal')

module.exports = function (tools) {
  recordRle(tools)
  recordDigest(tools)
  recordBitfield(tools)
  recordCrypto(tools)
}

// ---- run-length encoding

function recordRle ({ random, from, write, runs }) {
  random.start(11)
  const entries = []
  const hex = h => Buffer.from(h, 'hex')
  function both (id, meaning, bits) {
    const encoded = rle.encode(bits)
    const decoded = aligned.decode(encoded)
    entries.push({ id, meaning, result: 'valid', flags: [], bits: runs(bits), hex: encoded.toString('hex'), decodedSize: decoded.length })
    let end = bits.length
    while (end && !bits[end - 1]) end--
    if (!decoded.subarray(0, end).equals(bits.subarray(0, end)) || decoded.subarray(end).some(x => x)) throw new Error('rle ' + id)
  }
  both('empty', 'no bytes', hex(''))
  both('zero-1', 'one zero byte: trailing zeros vanish', hex('00'))
  both('zero-1024', 'a page of zeros', Buffer.alloc(1024))
  both('f8', 'five blocks', hex('f8'))
  both('80', 'one block', hex('80'))
  both('ff', 'one full byte', hex('ff'))
  both('ff-2', 'two full bytes', hex('ffff'))
  both('ff-8', 'eight full bytes', Buffer.alloc(8, 255))
  both('ff-31', 'the longest run with a one-byte head', Buffer.alloc(31, 255))
  both('ff-32', 'the shortest run with a two-byte head', Buffer.alloc(32, 255))
  both('ff-1024', 'a full page', Buffer.alloc(1024, 255))
  both('ff-131072', 'a full Want range', Buffer.alloc(131072, 255))
  both('hole-4', 'a lone block after four empty bytes', hex('0000000001'))
  both('a0-ff10-80', 'literal, run, literal', Buffer.concat([hex('a0'), Buffer.alloc(10, 255), hex('80')]))
  both('ff-00-ff', 'runs of both kinds', Buffer.concat([Buffer.alloc(5, 255), Buffer.alloc(5), Buffer.alloc(5, 255)]))
  both('ff-00-trail', 'a run, then zeros to the end', Buffer.concat([Buffer.alloc(5, 255), Buffer.alloc(500)]))
  both('last-of-range', 'only the last block of a Want range', Buffer.concat([Buffer.alloc(131071), hex('01')]))
  for (let n = 1; n <= 6; n++) both('short-run-' + n, 'a run of ' + n + ' between literals', Buffer.concat([hex('5a'), Buffer.alloc(n, 255), hex('a5'), Buffer.alloc(n), hex('01')]))
  both('literal-63', 'the longest literal with a one-byte head', keystream(11, 1, 0, 63).map(b => b | 1))
  both('literal-64', 'the shortest literal with a two-byte head', keystream(11, 2, 0, 64).map(b => b | 1))
  for (const [name, density] of [['1', 0.01], ['10', 0.1], ['50', 0.5], ['90', 0.9], ['99', 0.99], ['999', 0.999]]) {
    for (const size of [33, 1024]) {
      const b = Buffer.alloc(size)
      for (let i = 0; i < size * 8; i++) if (Math.random() < density) b[i >> 3] |= 128 >> (i & 7)
      both('random-' + name + '-' + size, 'each bit set with probability 0.' + (name === '1' ? '01' : name), b)
    }
  }
  for (let k = 0; k < 12; k++) {
    const parts = []
    for (let i = 0; i < 12; i++) parts.push(random.below(2) ? Buffer.alloc(random.below(70), random.below(2) ? 255 : 0) : random.bytes(random.below(9)))
    both('mixed-' + k, 'runs and literals of random sizes', Buffer.concat(parts))
  }

  function only (id, meaning, result, flags, h) {
    const e = { id, meaning, result, flags, hex: h }
    try {
      const decoded = aligned.decode(hex(h))
      e.js = 'decoded'
      if (result !== 'invalid') { e.bits = runs(decoded); e.decodedSize = decoded.length } else e.jsBits = runs(decoded)
    } catch (err) { e.js = 'throws' }
    entries.push(e)
  }
  only('run-empty', 'a run of no bytes', 'acceptable', ['NotShortest'], '01' + '02f8')
  only('literal-empty', 'a literal of no bytes', 'acceptable', ['NotShortest'], '00' + '02f8')
  only('run-zero-trailing', 'zeros at the end, kept', 'acceptable', ['NotShortest'], '02f8' + '11')
  only('run-split', 'one run in two', 'acceptable', ['NotShortest'], '0707')
  only('literal-ff', 'a run as a literal', 'acceptable', ['NotShortest'], '06ffffff')
  only('varint-long', 'a head with a needless byte', 'acceptable', ['OverlongVarint'], '8200' + 'f8')
  only('varint-long-10', 'a head of ten bytes', 'acceptable', ['OverlongVarint'], '82808080808080808000' + 'f8')
  only('zero-run-bit', 'zeros, then ones', 'valid', [], '05' + '07')
  only('truncated-head', 'ends inside a head', 'invalid', ['Truncated'], '80')
  only('truncated-head-2', 'ends inside the second head', 'invalid', ['Truncated'], '02f880')
  only('truncated-literal', 'a literal of two bytes, one there', 'invalid', ['Truncated'], '04f8')
  only('truncated-literal-0', 'a literal of one byte, none there', 'invalid', ['Truncated'], '02')
  write('rle.json', {
    format: 'datsync-vectors/1',
    kind: 'rle',
    about: 'The run-length encoding of bitfields in Have. bits are bytes as [hex, times] pieces, to be joined; hex is what the deployed encoder writes for them. A decoder gives the bits without their trailing zeros; the deployed one pads with zeros to decodedSize, a multiple of 4. Entries with js were written by hand, and js is what the deployed decoder does with them. Beyond these: a run may claim 2^50 bytes, so bound it before storing it.',
    recordedFrom: from('bitfield-rle'),
    flags: { NotShortest: 'legal, but no encoder writes it', OverlongVarint: 'a varint with needless bytes', Truncated: 'ends too early' },
    entries
  })
}

// ---- digests and proofs

function recordDigest ({ random, from, write, ranges }) {
  random.start(12)
  const nodesOf = t => { const l = []; for (let i = 0; i < t.bitfield.length; i++) if (t.get(i)) l.push(i); return l }
  const full = n => { const t = tree(); for (let i = 0; i < n; i++) t.set(2 * i); return t }
  const withNodes = list => { const t = tree(); for (const i of list) t.set(i); return t }
  // a holder that fetched some blocks of a full tree, one after the other, as a downloader does
  function fetched (source, blocks) {
    const t = tree()
    for (const b of blocks) {
      const p = source.proof(2 * b, { digest: t.digest(2 * b), tree: tree() })
      // what the receiver stores: the nodes sent, its own leaf, and every parent that it computed on the way
      for (const n of p.nodes) t.set(n)
      t.set(2 * b)
    }
    return t
  }
  function shuffled (n) {
    const l = Array.from({ length: n }, (_, i) => i)
    for (let i = n - 1; i > 0; i--) { const j = random.below(i + 1); [l[i], l[j]] = [l[j], l[i]] }
    return l
  }

  const digests = []
  const seen = new Set()
  function digestsOf (t, blocks) {
    const held = nodesOf(t)
    const id = JSON.stringify(held)
    if (seen.has(id)) return
    seen.add(id)
    digests.push({ held: ranges(held), digest: Array.from({ length: blocks }, (_, i) => t.digest(2 * i)) })
  }
  digestsOf(tree(), 9)
  for (const list of [[3, 4], [1, 4], [3], [5], [6], [0], [1], [2], [7], [0, 2], [1, 5], [9, 3, 7], [11], [13], [16], [17, 7]]) digestsOf(withNodes(list), 9)
  for (let n = 1; n <= 33; n++) {
    const src = full(n)
    digestsOf(src, n + 3)
    for (let k = 0; k < 3; k++) digestsOf(fetched(src, shuffled(n).slice(0, 1 + random.below(n))), n + 2)
    const some = tree()
    for (let i = 0; i < 2 * n - 1; i++) if (Math.random() < 0.3) some.set(i)
    digestsOf(some, n + 2)
  }

  const proof = (t, index, digest, hashToo, remote) => {
    const p = t.proof(2 * index, { digest, hash: hashToo, tree: remote })
    return p ? [index, digest, hashToo ? 1 : 0, p.nodes.slice(), p.verifiedBy] : [index, digest, hashToo ? 1 : 0, null, 0]
  }
  const proofs = []
  for (let n = 1; n <= 33; n++) {
    const src = full(n)
    const requests = []
    for (let i = 0; i < n; i++) requests.push(proof(src, i, 0, i % 3 === 0))
    for (let k = 0; k < 10; k++) {
      const asker = fetched(src, shuffled(n).slice(0, random.below(n)))
      const i = random.below(n)
      requests.push(proof(src, i, asker.digest(2 * i), random.below(4) === 0))
    }
    for (let k = 0; k < 3; k++) requests.push(proof(src, random.below(n), random.below(1 << 8), false)) // made-up digests
    proofs.push({ length: n, requests })
  }
  for (let k = 0; k < 24; k++) {
    const n = 2 + random.below(32)
    const src = full(n)
    const holder = fetched(src, shuffled(n).slice(0, 1 + random.below(n)))
    const asker = fetched(src, shuffled(n).slice(0, random.below(n)))
    const requests = []
    for (let i = 0; i < n; i++) {
      requests.push(proof(holder, i, 0, false))
      const d = asker.digest(2 * i)
      if (d) requests.push(proof(holder, i, d, i % 4 === 0))
    }
    proofs.push({ held: ranges(nodesOf(holder)), requests })
  }

  const channels = []
  for (let k = 0; k < 16; k++) {
    const n = 3 + random.below(31)
    const src = full(n)
    const asker = tree()
    const remote = tree()
    const requests = []
    let inFlight = []
    for (const b of shuffled(n)) {
      requests.push(proof(src, b, asker.digest(2 * b), false, remote))
      inFlight.push([b, requests[requests.length - 1][3]])
      if (random.below(3) === 0) { // some answers arrive
        for (const [a, nodes] of inFlight) { for (const x of nodes) asker.set(x); asker.set(2 * a) }
        inFlight = []
      }
    }
    channels.push({ length: n, requests })
  }
  write('digest.json', {
    format: 'datsync-vectors/1',
    kind: 'digest',
    about:
      'Request.nodes and the nodes of the answer. held are half-open ranges of tree indexes; two held children imply ' +
      'their parent. digests: for block i, digest[i] is what its holder puts into Request.nodes. proofs: a sender (with ' +
      'every block below length, or exactly the held nodes) is asked by somebody whom it knows nothing else about; ' +
      'channels: the requests of one channel in order, where the sender remembers what every earlier digest said. A ' +
      'request is [block, digest, hash asked?, nodes of the answer in order, verifiedBy]: nodes null means that the leaf ' +
      'is not in the tree, verifiedBy is twice the verified length whose signature goes with the answer, 0 for none.',
    recordedFrom: from('hypercore', 'flat-tree', 'sparse-bitfield'),
    digests,
    proofs,
    channels
  })
  if (flat.fullRoots(10).join() !== '3,8') throw new Error('flat-tree')
}

// ---- bitfield pages

function recordBitfield ({ random, from, write, ranges, runs }) {
  random.start(13)
  const entries = []
  function entry (id, meaning, steps, { pageSize = 3584, treeFrom = 'blocks', flags = [] } = {}) {
    const b = pages(pageSize, [])
    const t = tree(b.tree)
    const nodes = []
    for (const [start, end, value = 1] of steps) {
      for (let i = start; i < end; i++) {
        b.set(i, !!value)
        if (treeFrom === 'blocks' && value) t.set(2 * i)
      }
    }
    const have = []
    const top = steps.reduce((m, s) => Math.max(m, s[1]), 0)
    for (let i = 0; i < top; i++) if (b.get(i)) have.push(i)
    for (let i = 0; i < t.bitfield.length; i++) if (t.get(i)) nodes.push(i)
    const list = []
    for (let i = 0; i < b.pages.length; i++) {
      const p = b.pages.get(i, true)
      list.push(runs(p ? Buffer.from(p.buffer) : Buffer.alloc(pageSize)))
    }
    entries.push({ id, meaning, flags, pageSize, steps, blocks: ranges(have), nodes: ranges(nodes), length: t.blocks(), pages: list })
  }
  entry('blocks-1', 'one block', [[0, 1]])
  entry('blocks-5', 'five blocks', [[0, 5]])
  for (const n of [7, 8, 9, 31, 32, 33, 40, 64, 100, 255, 256, 257, 1000, 4096]) entry('blocks-' + n, n + ' blocks', [[0, n]])
  entry('blocks-8192', 'a full page', [[0, 8192]])
  entry('blocks-8193', 'a page and a block', [[0, 8193]])
  entry('blocks-16384', 'two full pages', [[0, 16384]])
  entry('blocks-32768', 'four full pages', [[0, 32768]])
  entry('sparse-few', 'lone blocks', [[3, 4], [17, 18], [64, 72], [100, 133]])
  entry('sparse-far', 'blocks on the first and the fifth page', [[2, 3], [40000, 40001]])
  entry('sparse-middle', 'the second page only', [[8192, 16384]])
  entry('cleared', 'a hole made by clear', [[0, 100], [20, 30, 0], [64, 96, 0]], { flags: ['Cleared'] })
  entry('cleared-all', 'all cleared: the tree stays', [[0, 40], [0, 40, 0]], { flags: ['Cleared'] })
  entry('old-5', 'a page of the older size', [[0, 5]], { pageSize: 3328, flags: ['OldPageSize'] })
  entry('old-8193', 'two pages of the older size', [[0, 8193]], { pageSize: 3328, flags: ['OldPageSize'] })
  for (let k = 0; k < 4; k++) {
    const list = []
    let at = 0
    for (let i = 0; i < 30; i++) { at += random.below(40); const end = at + 1 + random.below(60); list.push([at, end]); at = end }
    entry('random-' + k, 'random ranges', list)
  }
  write('bitfield.json', {
    format: 'datsync-vectors/1',
    kind: 'bitfield',
    about: 'Pages of the bitfield file: 1024 bytes block bits, 2048 tree bits, and the index (512 bytes, or 256 in pages of 3328). steps set (or, with a third member 0, clear) blocks in this order, [start, end) each; setting a block sets its leaf, and a parent wherever both children are set. blocks and nodes are what is set in the end, length is what the feed takes for its length on opening. Each page is a list of [hex, times] pieces.',
    recordedFrom: from('hypercore', 'sparse-bitfield', 'flat-tree'),
    flags: { Cleared: 'blocks were set and cleared again', OldPageSize: 'the page size of older folders, kept as long as the file lives' },
    entries
  })
}

// ---- hashes, keys, cipher

function recordCrypto ({ random, from, write }) {
  random.start(14)
  const hx = b => b.toString('hex')
  const keyPairs = []
  for (let s = 0; s < 4; s++) {
    const seed = s ? keystream(s, 0, 2, 32) : Buffer.alloc(32)
    const pair = hash.keyPair(seed)
    const kdf = Buffer.alloc(32)
    sodium.crypto_kdf_derive_from_key(kdf, 1, Buffer.from('hyperdri'), pair.secretKey.subarray(0, 32))
    keyPairs.push({ seed: hx(seed), publicKey: hx(pair.publicKey), secretKey: hx(pair.secretKey), discoveryKey: hx(hash.discoveryKey(pair.publicKey)), driveContentSeed: hx(kdf), driveContentKey: hx(hash.keyPair(kdf).publicKey) })
  }
  const discoveryKeys = []
  for (const k of [Buffer.alloc(32), Buffer.alloc(32, 255), Buffer.from(Array.from({ length: 32 }, (_, i) => i)), keystream(14, 0, 0, 32)]) discoveryKeys.push({ key: hx(k), discoveryKey: hx(hash.discoveryKey(k)) })
  const leaves = []
  for (const n of [0, 1, 2, 31, 32, 55, 56, 63, 64, 111, 118, 119, 120, 127, 128, 129, 247, 248, 1000, 4096, 65535, 65536, 100000]) {
    leaves.push({ seed: 1, index: n, size: n, hash: hx(hash.data(block(1, n, { min: n, max: n }))) })
  }
  const trees = []
  const pair = hash.keyPair(keystream(2, 0, 2, 32))
  const nodes = new Map()
  for (let i = 0; i < 33; i++) {
    const data = block(2, i, { min: 0, max: 50 })
    let node = { index: 2 * i, hash: hash.data(data), size: data.length }
    const made = []
    for (;;) {
      nodes.set(node.index, node)
      made.push([node.index, hx(node.hash), node.size])
      const sibling = nodes.get(flat.sibling(node.index))
      if (!sibling || sibling.index > node.index) break
      node = { index: flat.parent(node.index), hash: hash.parent(sibling, node), size: sibling.size + node.size }
    }
    const roots = flat.fullRoots(2 * i + 2).map(r => nodes.get(r))
    const root = hash.tree(roots)
    trees.push({ length: i + 1, nodes: made, roots: roots.map(r => r.index), root: hx(root), signature: hx(hash.sign(root, pair.secretKey)) })
  }
  const signatures = []
  function signature (meaning, result, message, sig, key) {
    if (hash.verify(message, sig, key) !== (result === 'valid')) throw new Error('signature: ' + meaning)
    signatures.push({ meaning, result, message: hx(message), signature: hx(sig), key: hx(key) })
  }
  const m = keystream(14, 1, 0, 32)
  const sig = hash.sign(m, pair.secretKey)
  const flip = (b, at) => { const c = Buffer.from(b); c[at] ^= 1; return c }
  signature('good', 'valid', m, sig, pair.publicKey)
  signature('the empty message', 'valid', Buffer.alloc(0), hash.sign(Buffer.alloc(0), pair.secretKey), pair.publicKey)
  signature('a bit of R flipped', 'invalid', m, flip(sig, 0), pair.publicKey)
  signature('a bit of S flipped', 'invalid', m, flip(sig, 40), pair.publicKey)
  signature('a bit of the message flipped', 'invalid', flip(m, 31), sig, pair.publicKey)
  signature('another key', 'invalid', m, sig, hash.keyPair(keystream(3, 0, 2, 32)).publicKey)
  signature('zeros', 'invalid', m, Buffer.alloc(64), pair.publicKey)
  const streams = []
  for (let k = 0; k < 3; k++) {
    const key = k ? keystream(14, 2 + k, 0, 32) : Buffer.from(Array.from({ length: 32 }, (_, i) => i))
    const nonce = k ? keystream(14, 5 + k, 0, 24) : Buffer.alloc(24)
    const long = Buffer.alloc(1 << 21)
    const xor = sodium.crypto_stream_xor_instance(nonce, key)
    // in uneven pieces: the position in the keystream goes on
    for (let at = 0; at < long.length;) { const end = Math.min(long.length, at + 1 + random.below(at < 300 ? 40 : 100000)); const p = long.subarray(at, end); xor.update(p, p); at = end }
    const pieces = []
    for (const at of [0, 1, 62, 63, 64, 65, 127, 128, 1000, 65535, 65536, 1048575, 1048576, 2097088]) pieces.push([at, hx(long.subarray(at, at + 64))])
    streams.push({ key: hx(key), nonce: hx(nonce), keystream: pieces })
  }
  write('crypto.json', {
    format: 'datsync-vectors/1',
    kind: 'crypto',
    about:
      'Hashes, keys, signatures and the cipher. Content is named as seed, index and size: conformance/js/common.js says ' +
      'how to make it. keyPairs: Ed25519 from a seed; driveContentSeed and driveContentKey are those of the content feed ' +
      'that a drive with this metadata key pair derives. leaves: the hash of one block. trees: a feed of seed 2, sizes ' +
      '0-50, key pair keyPairs[2], after each append: the nodes it made as [index, hash, size], the full roots, the root ' +
      'hash, its signature. streams: 64 bytes of the XSalsa20 keystream at each offset.',
    recordedFrom: from('hypercore-crypto', 'flat-tree'),
    keyPairs,
    discoveryKeys,
    leaves,
    trees,
    signatures,
    streams
  })
}
