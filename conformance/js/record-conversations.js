'use strict'
// conversations/: whole conversations between two deployed peers, byte for byte.
const crypto = require('crypto')
const { load, block, parseSize, keyPairSeed } = require('./common')
const ram = load('random-access-memory')
const messages = load('hypercore-protocol/messages')
const hash = load('hypercore-crypto')
const sodium = load('sodium-universal')

const NAMES = { 0: 'Feed', 1: 'Handshake', 2: 'Info', 3: 'Have', 4: 'Unhave', 5: 'Want', 6: 'Unwant', 7: 'Request', 8: 'Cancel', 9: 'Data', 15: 'Extension' }
const FIELDS = {
  Feed: ['discoveryKey', 'nonce'],
  Handshake: ['id', 'live', 'userData', 'extensions', 'ack'],
  Info: ['uploading', 'downloading'],
  Have: ['start', 'length', 'bitfield', 'ack'],
  Unhave: ['start', 'length'],
  Want: ['start', 'length'],
  Unwant: ['start', 'length'],
  Request: ['index', 'bytes', 'hash', 'nodes'],
  Cancel: ['index', 'bytes', 'hash'],
  Data: ['index', 'value', 'nodes', 'signature']
}
const call = fn => new Promise((resolve, reject) => fn((err, value) => err ? reject(err) : resolve(value)))
const turns = async n => { for (let i = 0; i < n; i++) await new Promise(resolve => setImmediate(resolve)) }

module.exports = async function ({ random, from, write, ranges }) {
  let index = 0
  const list = []

  // One side's feed: { seed, size, length, batch, static, writer, held, sparse }
  async function makeFeed (lib, spec, key) {
    const files = {}
    const storage = name => (files[name] = ram())
    const content = i => block(spec.seed, i, parseSize(spec.size))
    let feed
    if (key) feed = lib(storage, key, { sparse: !!spec.sparse })
    else if (spec.static) feed = lib(storage, { live: false })
    else {
      const pair = hash.keyPair(keyPairSeed(spec.seed))
      feed = lib(storage, pair.publicKey, { secretKey: pair.secretKey })
    }
    feed.on('error', err => { throw err })
    await new Promise(resolve => feed.ready(resolve))
    if (!key) {
      while (feed.length < spec.length) await call(cb => feed.append(Array.from({ length: Math.min(spec.batch || 8, spec.length - feed.length) }, (_, i) => content(feed.length + i)), cb))
      if (spec.static) await call(cb => feed.finalize(cb))
    }
    return { feed, files, content }
  }
  async function store (side) {
    const { feed, files } = side
    await call(cb => feed._sync(null, cb))
    const held = []
    for (let i = 0; i < feed.length; i++) if (feed.has(i)) held.push(i)
    const r = { length: feed.length, byteLength: feed.byteLength, blocks: ranges(held), files: {} }
    for (const name of Object.keys(files).sort()) {
      const size = files[name].length
      if (!size) continue
      const b = await call(cb => files[name].read(0, size, cb))
      r.files[name] = { size, sha256: crypto.createHash('sha256').update(b).digest('hex') }
    }
    return r
  }

  async function record (id, about, options) {
    const lib = load(options.hypercore7 ? 'hypercore7' : 'hypercore')
    random.start(1000 + index++)
    const server = []
    const client = []
    for (const spec of options.feeds) {
      const s = await makeFeed(lib, spec)
      const c = await makeFeed(lib, spec, s.feed.key)
      if (spec.held) {
        for (const i of spec.held) {
          const proof = await call(cb => s.feed.proof(i, { digest: c.feed.digest(i) }, cb))
          const data = await call(cb => s.feed.get(i, cb))
          await call(cb => c.feed.put(i, data, { nodes: proof.nodes.slice(), signature: proof.signature }, cb))
        }
      }
      if (spec.grow) await call(cb => s.feed.append(Array.from({ length: spec.grow }, (_, i) => s.content(s.feed.length + i)), cb))
      server.push(s)
      client.push(c)
    }
    const before = { server: [], client: [] }
    for (const s of server) before.server.push(await store(s))
    for (const c of client) before.client.push(await store(c))

    const common = Object.assign({ live: !!options.live, timeout: 0, expectedFeeds: server.length }, options.protocol)
    function start (side) {
      const stream = side[0].feed.replicate(Object.assign({ id: random.bytes(32) }, common))
      for (const more of side.slice(1)) more.feed.replicate({ stream, live: !!options.live })
      return stream
    }
    const a = start(server)
    const b = start(client)
    const chunks = []
    const join = (name, x, y) => {
      x.on('data', data => { chunks.push([name, Buffer.from(data)]); if (!y.destroyed) y.write(data) })
      x.on('end', () => { if (!y.destroyed) y.end() })
      x.on('error', err => { throw err })
    }
    join('s', a, b)
    join('c', b, a)
    const idle = async () => { for (let seen = -1; seen !== chunks.length;) { seen = chunks.length; await turns(300) } }
    await idle()
    if (options.then) await options.then({ server, client, a, b, idle })
    await idle()
    const agreed = a.destroyed && b.destroyed
    if (!options.live && !options.open && !agreed) throw new Error(id + ' did not end')
    if (!agreed) { b.finalize(); await idle() }

    const after = { server: [], client: [] }
    for (const s of server) after.server.push(await store(s))
    for (const c of client) after.client.push(await store(c))
    const decoded = decode(chunks, server[0].feed.key)
    write('conversations/' + id + '.json', {
      format: 'datsync-vectors/1',
      kind: 'conversation',
      id,
      about,
      recordedFrom: options.hypercore7 ? from('hypercore 7', 'hypercore-protocol') : from('hypercore', 'hypercore-protocol'),
      live: !!options.live,
      ended: agreed ? 'agreed' : 'client',
      feeds: options.feeds.map((f, i) => ({ key: server[i].feed.key.toString('hex'), discoveryKey: server[i].feed.discoveryKey.toString('hex'), static: !!f.static, content: { seed: f.seed, size: String(f.size) } })),
      server: { id: decoded.s.id, nonce: decoded.s.nonce, before: before.server, after: after.server },
      client: { id: decoded.c.id, nonce: decoded.c.nonce, before: before.client, after: after.client },
      chunks: chunks.map(([name, data]) => [name, data.toString('hex')]),
      messages: decoded.list
    })
    list.push({ id, about, file: id + '.json', messages: decoded.list.length, bytes: chunks.reduce((n, c) => n + c[1].length, 0) })
  }

  // Both directions, decrypted and taken apart by this file's own framing
  function decode (chunks, key) {
    const r = { list: [], s: state(), c: state() }
    function state () { return { rest: Buffer.alloc(0), xor: null, nonce: null, id: null } }
    chunks.forEach(([name, data], at) => {
      const side = r[name]
      let fresh = Buffer.from(data)
      if (side.xor) side.xor.update(fresh, fresh)
      side.rest = Buffer.concat([side.rest, fresh])
      for (;;) {
        const size = varint(side.rest, 0)
        if (!size || side.rest.length < size[1] + size[0]) break
        const end = size[1] + size[0]
        const frame = side.rest.subarray(0, end)
        side.rest = Buffer.from(side.rest.subarray(end))
        const entry = { from: name, chunk: at }
        if (!size[0]) { r.list.push(Object.assign(entry, { type: 'keep-alive', hex: '00' })); continue }
        const header = varint(frame, size[1])
        const type = header[0] & 15
        entry.channel = header[0] >> 4
        entry.type = NAMES[type]
        if (type === 15) {
          const id = varint(frame, header[1])
          entry.fields = { id: id[0], payload: frame.toString('hex', id[1]) }
        } else {
          entry.fields = plain(messages[entry.type].decode(frame, header[1], end))
          const there = present(frame, header[1]).map(n => FIELDS[entry.type][n - 1])
          for (const field of Object.keys(entry.fields)) if (!there.includes(field)) delete entry.fields[field]
          if (type === 1) side.id = entry.fields.id
        }
        entry.hex = frame.toString('hex')
        r.list.push(entry)
        if (type === 0 && !side.xor) {
          side.nonce = entry.fields.nonce
          side.xor = sodium.crypto_stream_xor_instance(Buffer.from(side.nonce, 'hex'), key)
          side.xor.update(side.rest, side.rest)
        }
      }
    })
    if (r.s.rest.length || r.c.rest.length) throw new Error('bytes left over')
    return r
  }
  function varint (b, at) {
    let n = 0
    for (let k = 0; ; k++) {
      if (at >= b.length) return null
      n += (b[at] & 127) * 2 ** (7 * k)
      if (b[at++] < 128) return [n, at]
    }
  }
  // the numbers of the fields in a body
  function present (b, at) {
    const list = []
    while (at < b.length) {
      const tag = varint(b, at)
      const value = varint(b, tag[1])
      list.push(tag[0] >> 3)
      at = value[1] + ((tag[0] & 7) === 2 ? value[0] : 0)
    }
    return list
  }
  function plain (v) {
    if (Buffer.isBuffer(v)) return v.toString('hex')
    if (Array.isArray(v)) return v.map(plain)
    if (v && typeof v === 'object') {
      const o = {}
      for (const [k, x] of Object.entries(v)) if (x !== null) o[k] = plain(x)
      return o
    }
    return v
  }

  // ---- the conversations

  await record('clone-1', 'a clone of one block', { feeds: [{ seed: 31, size: 11, length: 1 }] })
  await record('clone-5', 'a clone of five blocks', { feeds: [{ seed: 32, size: '1-40', length: 5 }] })
  await record('clone-40', 'a clone of forty blocks, more than are asked for at once', { feeds: [{ seed: 33, size: '1-60', length: 40 }] })
  await record('clone-empty-blocks', 'a clone of blocks of which some have no bytes', { feeds: [{ seed: 34, size: '0-2', length: 9 }] })
  await record('clone-large', 'blocks of 5,000 bytes', { feeds: [{ seed: 35, size: 5000, length: 3 }] })
  await record('complete', 'a clone that has everything already', { feeds: [{ seed: 36, size: '1-40', length: 5, held: [0, 1, 2, 3, 4] }] })
  await record('resume', 'a half complete clone goes on', { feeds: [{ seed: 37, size: '1-40', length: 20, held: [0, 1, 2, 3, 9, 12, 13, 19] }] })
  await record('grown', 'a complete clone of ten blocks meets a feed that has grown to fifteen', {
    feeds: [{ seed: 38, size: '1-40', length: 10, held: [4, 8, 1, 0, 9, 3, 2, 5, 6, 7], grow: 5 }]
  })
  await record('live', 'a live clone of three blocks, then appends of one, of one, and of four blocks', {
    feeds: [{ seed: 39, size: '1-40', length: 3 }],
    live: true,
    then: async ({ server: [s], idle }) => {
      for (const batch of [[3], [4], [5, 6, 7, 8]]) { await call(cb => s.feed.append(batch.map(s.content), cb)); await idle() }
    }
  })
  await record('live-empty', 'a live clone of an empty feed, which then gets its first blocks', {
    feeds: [{ seed: 40, size: '1-40', length: 0 }],
    live: true,
    then: async ({ server: [s], idle }) => { for (const batch of [[0], [1, 2]]) { await call(cb => s.feed.append(batch.map(s.content), cb)); await idle() } }
  })
  await record('live-clear', 'a sparse reader, and a writer that drops blocks: Unhave', {
    feeds: [{ seed: 41, size: '1-40', length: 12, sparse: true }],
    live: true,
    then: async ({ server: [s], client: [c], idle }) => {
      await call(cb => c.feed.get(7, cb))
      await call(cb => s.feed.clear(2, 5, cb))
      await idle()
      await call(cb => c.feed.get(11, cb))
      await call(cb => s.feed.clear(11, 12, cb))
    }
  })
  await record('sparse-range', 'a sparse reader takes blocks 7 to 20 of forty, in order', {
    feeds: [{ seed: 42, size: '1-40', length: 40, sparse: true }],
    live: true,
    then: async ({ client: [c] }) => { await call(cb => c.feed.download({ start: 7, end: 21, linear: true }, cb)) }
  })
  await record('sparse-single', 'a sparse reader takes single blocks, one after the other', {
    feeds: [{ seed: 43, size: '1-40', length: 33, sparse: true }],
    live: true,
    then: async ({ client: [c] }) => { for (const i of [16, 3, 2, 32, 0, 31]) await call(cb => c.feed.get(i, cb)) }
  })
  await record('update', 'a sparse reader asks for the newest length: it takes the last block', {
    feeds: [{ seed: 44, size: '1-40', length: 21, sparse: true }],
    live: true,
    then: async ({ client: [c] }) => { await call(cb => c.feed.update(21, cb)) }
  })
  await record('hash-only', 'a sparse reader takes the hashes of blocks 3 to 8, then block 5: Requests with hash', {
    feeds: [{ seed: 52, size: '1-40', length: 21, sparse: true }],
    live: true,
    then: async ({ client: [c] }) => {
      await call(cb => c.feed.download({ start: 3, end: 9, hash: true }, cb))
      await call(cb => c.feed.get(5, cb))
    }
  })
  await record('seek', 'a sparse reader looks for the block at byte 400: a Request with bytes', {
    feeds: [{ seed: 45, size: '10-40', length: 33, sparse: true }],
    live: true,
    then: async ({ client: [c] }) => { await call(cb => c.feed.seek(400, cb)) }
  })
  await record('static', 'a clone of a static feed', { feeds: [{ seed: 46, size: '1-40', length: 9, static: true }] })
  await record('two-feeds', 'two feeds on one connection', { feeds: [{ seed: 47, size: '1-40', length: 6 }, { seed: 48, size: '1-40', length: 3 }] })
  await record('extension', 'extension messages both ways', {
    feeds: [{ seed: 49, size: '1-40', length: 2 }],
    live: true,
    protocol: { extensions: ['alpha', 'beta'] },
    then: async ({ a, b }) => {
      const got = []
      for (const s of [a, b]) s.feeds[0].on('extension', (name, payload) => got.push(name + ':' + payload))
      a.feeds[0].extension('beta', Buffer.from('from the server'))
      b.feeds[0].extension('alpha', Buffer.from('from the client'))
      b.feeds[0].extension('beta', Buffer.alloc(0))
      await turns(20)
    }
  })
  await record('ack-7', 'hypercore 7.7.1 on both sides, with acknowledgements', { hypercore7: true, feeds: [{ seed: 50, size: '1-40', length: 5 }], protocol: { ack: true } })
  await record('clone-7', 'hypercore 7.7.1 on both sides', { hypercore7: true, feeds: [{ seed: 51, size: '1-40', length: 12 }] })

  write('conversations/index.json', {
    format: 'datsync-vectors/1',
    kind: 'conversations',
    about:
      'The conversations recorded here, with the number of their messages and bytes. Each file: feeds in the order of ' +
      'the channels; server and client with Handshake id, nonce, and their stores before and after (one for each feed: ' +
      'blocks held as half-open ranges, files with size and SHA-256); chunks, the bytes as they were handed over, in ' +
      'order, [s or c, hex]; messages, decrypted: from, the chunk in which the frame ends, channel, type, fields (those ' +
      'on the wire only), hex of the whole frame in the clear. ended: agreed, by the Info exchange, or client, which ' +
      'closed. The ticks that send keep-alives were off.',
    recordedFrom: from('hypercore', 'hypercore 7', 'hypercore-protocol', 'random-access-memory'),
    conversations: list
  })
}
