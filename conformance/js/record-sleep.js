'use strict'
// sleep/: small folders as hypercore writes them, and sleep/index.json, which tells what is in each.
const crypto = require('crypto')
const fs = require('fs')
const path = require('path')
const { load, block, parseSize, keyPairSeed } = require('./common')
const hypercore = load('hypercore')
const hash = load('hypercore-crypto')

const call = fn => new Promise((resolve, reject) => fn((err, value) => err ? reject(err) : resolve(value)))
function open (dir, key, options) {
  return new Promise((resolve, reject) => {
    const feed = hypercore(dir, key, options)
    feed.once('error', reject)
    feed.ready(() => resolve(feed))
  })
}

module.exports = async function ({ random, from, write, ranges, out }) {
  random.start(16)
  const root = path.join(out, 'sleep')
  const entries = []

  const writer = async (name, seed) => {
    const pair = hash.keyPair(keyPairSeed(seed))
    return open(path.join(root, name), pair.publicKey, { secretKey: pair.secretKey, sparse: true })
  }
  async function append (feed, content, count, batch) {
    while (count > 0) {
      const n = Math.min(batch, count)
      await call(cb => feed.append(Array.from({ length: n }, (_, i) => block(content.seed, feed.length + i, parseSize(content.size))), cb))
      count -= n
    }
  }
  // downloads these blocks of src, one by one, with the proofs that a request would have got
  async function fetch (src, dst, blocks) {
    for (const i of blocks) {
      const proof = await call(cb => src.proof(i, { digest: dst.digest(i) }, cb))
      const data = await call(cb => src.get(i, cb))
      await call(cb => dst.put(i, data, { nodes: proof.nodes.slice(), signature: proof.signature }, cb))
    }
  }

  async function finish (feed, name, meaning, content, flags = []) {
    const dir = path.join(root, name)
    await call(cb => feed._sync(null, cb))
    const held = []
    const nodes = []
    const signatures = []
    for (let i = 0; i < feed.length; i++) if (feed.has(i)) held.push(i)
    for (let i = 0; i < 2 * feed.length; i++) if (feed.tree.get(i)) nodes.push(i)
    const bytes = fs.readFileSync(path.join(dir, 'signatures'))
    for (let i = 0; 32 + 64 * i < bytes.length; i++) if (bytes.subarray(32 + 64 * i, 96 + 64 * i).some(x => x)) signatures.push(i)
    const e = { name, meaning, flags, key: feed.key.toString('hex'), writable: feed.writable, live: signatures.length > 0 || !feed.length, length: feed.length, byteLength: feed.byteLength, content, blocks: ranges(held), nodes: ranges(nodes), signatures: ranges(signatures) }
    await call(cb => feed.close(cb))
    e.pageSize = fs.readFileSync(path.join(dir, 'bitfield')).readUInt16BE(5)
    e.files = {}
    for (const f of fs.readdirSync(dir).sort()) {
      const b = fs.readFileSync(path.join(dir, f))
      e.files[f] = { size: b.length, sha256: crypto.createHash('sha256').update(b).digest('hex') }
    }
    entries.push(e)
  }

  async function own (name, meaning, seed, size, count, batch, flags, then) {
    const feed = await writer(name, seed)
    const content = { seed, size: String(size) }
    await append(feed, content, count, batch)
    if (then) await then(feed)
    await finish(feed, name, meaning, content, flags)
  }
  await own('empty', 'opened, nothing appended', 20, 1, 0, 1)
  await own('one', 'one block', 21, 11, 1, 1)
  await own('five-batch', 'five blocks in one append: one signature', 22, '1-100', 5, 5)
  await own('five-single', 'five blocks in five appends', 22, '1-100', 5, 1)
  await own('empty-blocks', 'blocks of no bytes among others', 23, '0-2', 12, 4)
  await own('cleared', 'twenty blocks, 4 to 9 and the last cleared', 24, '1-60', 20, 10, ['Cleared'], async feed => {
    await call(cb => feed.clear(4, 10, cb))
    await call(cb => feed.clear(19, 20, cb))
  })
  await own('two-pages', '8,200 blocks: two bitfield pages', 25, '1-3', 8200, 8200)
  {
    const dir = path.join(root, 'old-page-size')
    fs.mkdirSync(dir, { recursive: true })
    const header = Buffer.alloc(32)
    header.set([5, 2, 87, 0, 0])
    header.writeUInt16BE(3328, 5)
    fs.writeFileSync(path.join(dir, 'bitfield'), header)
    await own('old-page-size', 'twelve blocks, on a bitfield of pages of 3328 bytes', 26, '1-60', 12, 3, ['OldPageSize'])
  }
  {
    const content = { seed: 27, size: '1-60' }
    const feed = await open(path.join(root, 'static'), null, { live: false })
    await append(feed, content, 9, 3)
    await call(cb => feed.finalize(cb))
    feed.live = false
    await finish(feed, 'static', 'a static feed of nine blocks: its key is its tree hash', content, ['Static'])
  }

  // readers of one feed of forty blocks
  const src = await writer('source', 28)
  const content = { seed: 28, size: '1-60' }
  await append(src, content, 40, 8)
  const reader = name => open(path.join(root, name), src.key, { sparse: true })
  let feed = await reader('clone')
  await fetch(src, feed, Array.from({ length: 40 }, (_, i) => (i * 17 + 5) % 40))
  await finish(feed, 'clone', "a reader's whole copy of source", content)
  feed = await reader('sparse')
  await fetch(src, feed, [3, 17, 18, 30, 39])
  await finish(feed, 'sparse', 'a reader of source with five blocks', content, ['Sparse'])
  feed = await reader('sparse-first')
  await fetch(src, feed, [0])
  await finish(feed, 'sparse-first', 'a reader of source with its first block only', content, ['Sparse'])
  feed = await reader('hashes-only')
  for (const i of [39, 7]) {
    const proof = await call(cb => src.proof(i, { digest: feed.digest(i), hash: true }, cb))
    await call(cb => feed.put(i, null, { nodes: proof.nodes.slice(), signature: proof.signature }, cb))
  }
  await finish(feed, 'hashes-only', 'a reader of source that asked for hashes only: a length, no blocks', content, ['Sparse'])
  feed = await reader('fresh')
  await finish(feed, 'fresh', 'a reader of source that has nothing yet', content)
  await append(src, content, 6, 6)
  feed = await reader('updated')
  await fetch(src, feed, [45, 2])
  await finish(feed, 'updated', 'a reader of source after it grew from 40 to 46 blocks, with two of them', content, ['Sparse'])
  await finish(src, 'source', 'the feed that the readers read, in the end', content)

  write('sleep/index.json', {
    format: 'datsync-vectors/1',
    kind: 'sleep',
    about: 'Folders as hypercore wrote them, one for each entry, named name. content: block i is that of seed and size, as conformance/js/common.js says; a writable feed has the key pair of that seed. blocks, nodes and signatures are half-open ranges of the blocks in the folder, of the tree indexes set in its bitfield, and of the indexes at which a signature lies. length and byteLength are what hypercore takes them for on opening.',
    recordedFrom: from('hypercore', 'random-access-file'),
    flags: {
      Cleared: 'blocks were dropped; their bytes may still lie in data',
      OldPageSize: 'the bitfield has pages of 3328 bytes; its header was written by hand before hypercore opened it',
      Static: 'no signatures: the key is the tree hash',
      Sparse: 'not all blocks below length are there'
    },
    entries
  })
}
