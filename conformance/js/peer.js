'use strict'
// The deployed JavaScript hypercore as a peer under test, and a maker and checker of its folders.
//
//   node peer.js [--hypercore 6|7|VERSION] serve|clone --key HEX [--key HEX ...] --store DIR (--port N | --listen)
//                [--live] [--once] [--sparse A:B]
//   node peer.js [--hypercore 6|7] make DIR BLOCKS BYTES [SEED] [BATCH] [--static] [--key-seed HEX | --secret-key HEX]
//   node peer.js [--hypercore 6|7] check DIR
//   node peer.js [--hypercore 6|7] append DIR HEX... [--batch] [--overwrite]
//   node peer.js [--hypercore 6|7] clear DIR A B
//
// serve, clone: the suite's adapter contract. The first key's files lie in DIR itself, those of each further key in
//   DIR/KEY (64 hex digits). --port dials 127.0.0.1, --listen prints "PORT n". On stdin "append HEX" adds a block to
//   the first feed (no HEX: one of no bytes), "stop" or the end of input flushes and exits 0. serve never creates a feed.
//   Without --live: clone exits 0 once all blocks that were offered (or those of --sparse A:B, half open) are stored,
//   1 if its connection ends before (with --listen it waits for another). serve exits 0 when a conversation has come
//   to its agreed end, and, where it dialled, whenever the connection ends without an error.
//   With --live: until stop, whatever becomes of the connection.
// make: BYTES is a number or MIN-MAX; content and default key pair as common.js says (SEED 1). BATCH blocks are
//   appended, and so signed, at a time: by default 1024, but no more than make 8 MiB of the largest size. --static: no
//   key pair and no signatures, the key is the tree hash. Prints {"key","length","byteLength"}.
// check: reads every block through hypercore and hashes it again; checks every inner node of the tree whose children
//   are there, and the signature of the last root (the key itself, in a static feed). Prints {"length","byteLength",
//   "valid","invalid","key","nodes","badNodes","signed"}: valid and invalid count blocks that the bitfield claims.
// append: adds blocks, each signed alone (--batch: one batch; --overwrite: open it so, with its own keys). clear: drops blocks A up to B. Both print {"length"}.
//
// VERSION: one of js/old/package.json, or 6.26.0 or 7.7.1.
//
// exit: 0 done, 1 failed, 89 not implemented
// env: DEPS = folder with node_modules (default build/js); sodium-native is used if it can be loaded there
const fs = require('fs')
const net = require('net')
const path = require('path')
const { load, loadOld, hasOld, parseSize, block, keyPairSeed, storedKey, onTold } = require('./common')

const NOT_IMPLEMENTED = 89
const words = []
const opt = { key: [] }
const withValue = new Set(['hypercore', 'key', 'store', 'port', 'sparse', 'key-seed', 'secret-key'])
const flags = new Set(['listen', 'live', 'once', 'static', 'batch', 'overwrite'])
for (let i = 2; i < process.argv.length; i++) {
  const a = process.argv[i]
  if (!a.startsWith('--')) { words.push(a); continue }
  const name = a.slice(2)
  if (flags.has(name)) { opt[name] = true; continue }
  if (!withValue.has(name)) { console.error('peer.js: no option ' + a); process.exit(NOT_IMPLEMENTED) }
  const value = process.argv[++i]
  if (value === undefined) fail('no value for ' + a)
  if (name === 'key') opt.key.push(value)
  else opt[name] = value
}
const MODULES = { 6: 'hypercore', '6.26.0': 'hypercore', 7: 'hypercore7', '7.7.1': 'hypercore7' }
const which = opt.hypercore || '6'
if (!MODULES[which] && !hasOld('hypercore-' + which)) { console.error('peer.js: no hypercore ' + which); process.exit(NOT_IMPLEMENTED) }

const hypercore = MODULES[which] ? load(MODULES[which]) : loadOld('hypercore-' + which)
let hash = null // for what makes and checks folders; hypercore before 6.13 comes without it
try { hash = load('hypercore-crypto') } catch (err) {}

const commands = { serve: replicate, clone: replicate, make, check, append, clear }
const command = words.shift()
if (!command || !Object.prototype.hasOwnProperty.call(commands, command)) {
  console.error('usage: the head of peer.js')
  process.exit(command ? NOT_IMPLEMENTED : 1)
}
Promise.resolve(commands[command](command)).catch(fail)

function fail (err) {
  console.error('peer.js: ' + (err && err.stack && !err.expected ? err.stack : err && err.message ? err.message : err))
  process.exit(1)
}
function complaint (text) { const e = new Error(text); e.expected = true; return e }
function call (fn) { return new Promise((resolve, reject) => fn((err, value) => err ? reject(err) : resolve(value))) }
function print (object) { fs.writeSync(1, JSON.stringify(object) + '\n') }

// A feed, opened; err events before that reject.
function open (dir, key, options) {
  return new Promise((resolve, reject) => {
    const feed = key ? hypercore(dir, key, options) : hypercore(dir, options)
    feed.once('error', reject)
    feed.ready(() => { feed.removeListener('error', reject); feed.on('error', fail); resolve(feed) })
  })
}
function openStored (dir, more) {
  if (!storedKey(dir)) throw complaint('no feed in ' + dir)
  return open(dir, null, Object.assign({ createIfMissing: false, sparse: true }, more))
}
// A block that came is written in several steps, which neither _sync nor close waits for: keep those under way
function watchPuts (feed) {
  const put = feed._putBuffer
  feed.puts = new Set()
  feed._putBuffer = function (...args) {
    const cb = args.pop()
    let end
    const done = new Promise(resolve => { end = resolve })
    feed.puts.add(done)
    put.call(feed, ...args, (...result) => { feed.puts.delete(done); end(); cb(...result) })
  }
  return feed
}
// hypercore says that a block is stored before its bitfield pages are: wait for those, then close
async function flush (feed) {
  await call(cb => feed._sync(null, cb))
  await call(cb => feed.close(cb))
}

// ---- make, append, clear, check

async function make () {
  const [dir, blocks, bytes, seed = '1', batchSize] = words
  if (bytes === undefined) throw complaint('make needs DIR BLOCKS BYTES')
  const size = parseSize(bytes)
  if (fs.existsSync(path.join(dir, 'tree'))) throw complaint(dir + ' already holds a feed')
  let feed
  if (opt.static) {
    feed = await open(dir, null, { live: false })
  } else {
    const pair = opt['secret-key']
      ? { secretKey: hex(opt['secret-key'], 64), publicKey: hex(opt['secret-key'], 64).subarray(32) }
      : hash.keyPair(opt['key-seed'] ? hex(opt['key-seed'], 32) : keyPairSeed(seed))
    feed = await open(dir, pair.publicKey, { secretKey: pair.secretKey, sparse: true })
  }
  const step = +batchSize || Math.max(1, Math.min(1024, Math.floor(8 * 1048576 / Math.max(1, size.max))))
  while (feed.length < +blocks) {
    const batch = []
    for (let i = 0; i < step && feed.length + i < +blocks; i++) batch.push(block(seed, feed.length + i, size))
    await call(cb => feed.append(batch, cb))
  }
  if (opt.static) await call(cb => feed.finalize(cb))
  print({ key: feed.key.toString('hex'), length: feed.length, byteLength: feed.byteLength })
  await flush(feed)
}

async function append () {
  const [dir, ...blocks] = words
  const feed = opt.overwrite ? await open(dir, storedKey(dir), { secretKey: fs.readFileSync(path.join(dir, 'secret_key')), overwrite: true }) : await openStored(dir)
  const list = blocks.map(b => hex(b))
  if (opt.batch) await call(cb => feed.append(list, cb))
  else for (const b of list) await call(cb => feed.append(b, cb))
  print({ length: feed.length })
  await flush(feed)
}

async function clear () {
  const feed = await openStored(words[0])
  if (!/^\d+$/.test(words[1]) || !/^\d+$/.test(words[2])) throw complaint('clear needs DIR A B')
  await call(cb => feed.clear(+words[1], +words[2], cb))
  print({ length: feed.length })
  await flush(feed)
}

async function check () {
  const dir = words[0]
  const feed = await openStored(dir)
  const tree = fs.readFileSync(path.join(dir, 'tree')).subarray(32)
  const node = i => {
    const at = 40 * i
    if (at + 40 > tree.length) return null
    const b = tree.subarray(at, at + 40)
    if (b.equals(blank)) return null
    return { index: i, hash: b.subarray(0, 32), size: Number(b.readBigUInt64BE(32)) }
  }
  const blank = Buffer.alloc(40)
  const report = { length: feed.length, byteLength: feed.byteLength, valid: 0, invalid: 0, key: feed.key ? feed.key.toString('hex') : null }

  const step = Math.max(1, Math.min(1024, Math.floor(4 * 1048576 / Math.max(1, feed.byteLength / feed.length))))
  const judge = (i, data) => {
    const leaf = data && node(2 * i)
    if (leaf && leaf.size === data.length && hash.data(data).equals(leaf.hash)) report.valid++
    else report.invalid++
  }
  for (let i = 0; i < feed.length;) {
    let end = i
    while (end < feed.length && end - i < step && feed.has(end)) end++
    if (end === i) { i++; continue }
    let batch = null
    try { batch = await call(cb => feed.getBatch(i, end, { wait: false }, cb)) } catch (e) {}
    for (let j = i; j < end; j++) {
      if (batch) { judge(j, batch[j - i]); continue }
      try { judge(j, await call(cb => feed.get(j, { wait: false }, cb))) } catch (e) { judge(j, null) }
    }
    i = end
  }

  report.nodes = 0
  report.badNodes = 0
  const count = Math.floor(tree.length / 40)
  for (let i = 0; i < count; i++) {
    const n = node(i)
    if (!n) continue
    report.nodes++
    if (!(i & 1)) continue
    let half = 1
    while (i & half) half *= 2 // 2^height
    const left = node(i - half / 2)
    const right = node(i + half / 2)
    if (!left || !right) continue
    if (left.size + right.size !== n.size || !hash.parent(left, right).equals(n.hash)) report.badNodes++
  }

  report.signed = null
  if (feed.length) {
    report.signed = false
    try {
      const root = hash.tree(load('flat-tree').fullRoots(2 * feed.length).map(node))
      if (root.equals(feed.key)) report.signed = true
      else {
        const signatures = fs.readFileSync(path.join(dir, 'signatures')).subarray(32)
        report.signed = hash.verify(root, signatures.subarray(64 * (feed.length - 1), 64 * feed.length), feed.key)
      }
    } catch (e) {}
  }
  print(report)
  await call(cb => feed.close(cb))
  process.exit(report.invalid || report.badNodes || report.signed === false ? 1 : 0)
}

function hex (text, size) {
  if (!/^([0-9a-fA-F]{2})*$/.test(text)) throw complaint('not hex: ' + text)
  const b = Buffer.from(text, 'hex')
  if (size !== undefined && b.length !== size) throw complaint('not ' + size + ' bytes: ' + text)
  return b
}

// ---- serve, clone

async function replicate (role) {
  const serve = role === 'serve'
  const live = !!opt.live
  if (!opt.store) throw complaint(role + ' needs --store')
  if (!opt.port === !opt.listen) throw complaint(role + ' needs --port or --listen')
  const keys = opt.key.map(k => hex(k, 32))
  if (serve && !keys.length) { const k = storedKey(opt.store); if (k) keys.push(k) }
  if (!keys.length) throw complaint(serve ? 'no --key and no feed in ' + opt.store : 'clone needs --key')
  let range = null
  if (opt.sparse) {
    const m = /^(\d+):(\d+)$/.exec(opt.sparse)
    if (!m || +m[2] <= +m[1]) throw complaint('--sparse A:B')
    range = { start: +m[1], end: +m[2], linear: true }
  }

  const feeds = []
  for (let i = 0; i < keys.length; i++) {
    const dir = i ? path.join(opt.store, keys[i].toString('hex')) : opt.store
    if (serve && !(storedKey(dir) || Buffer.alloc(0)).equals(keys[i])) throw complaint('no feed ' + keys[i].toString('hex') + ' in ' + dir)
    feeds.push(watchPuts(await open(dir, keys[i], { sparse: serve || !!range })))
  }

  const wanted = new Set(serve || live ? [] : feeds) // feeds that are not complete yet
  const streams = new Set()
  let server = null
  let leaving = false
  let work = Promise.resolve()

  async function leave (code) {
    if (leaving) return
    leaving = true
    if (server) server.close()
    await work
    for (const f of feeds) await Promise.all(f.puts)
    for (const f of feeds) await call(cb => f._sync(null, cb))
    for (const s of streams) s.finalize()
    for (const f of feeds) await flush(f).catch(() => {})
    // let what was said last go out, but wait for nobody
    setTimeout(() => process.exit(code), 1000).unref()
    await Promise.all([...streams].map(s => s.socket.destroyed ? null : new Promise(resolve => s.socket.once('close', resolve))))
    process.exit(code)
  }

  function complete (feed) {
    wanted.delete(feed)
    if (range) for (const peer of feed.peers.slice()) peer.end() // a sparse feed does not say by itself that it is done
    if (!wanted.size && (range || !live)) settle()
  }
  // All is here: without a live peer the protocol now ends by itself, but for the cases in which it doesn't
  function settle () {
    const unfinished = [...streams]
    if (!unfinished.length) return leave(0)
    const timer = setTimeout(() => leave(0), range || feeds.some(f => !f.length) ? 200 : 2000)
    for (const s of unfinished) s.socket.once('close', () => { streams.delete(s); if (!streams.size) { clearTimeout(timer); leave(0) } })
  }

  if (!serve) {
    for (const feed of feeds) {
      if (range) {
        feed.download(Object.assign({}, range), err => { if (err && !leaving) fail(err); if (!live && !leaving) complete(feed) })
      } else if (!live) {
        const look = () => { if (wanted.has(feed) && isComplete(feed)) complete(feed) }
        feed.on('sync', look)
        onTold(feed, () => process.nextTick(look)) // complete from the start, or an empty feed
      }
    }
  }
  // complete: some peer told what it has, and all blocks below its length are here. (Block by block: the counting of older
  // versions is not right.)
  function isComplete (feed) {
    const told = feed.peers.filter(p => '_first' in p ? !p._first : p.remoteBitfield !== null)
    if (!told.length) return false
    const length = Math.max(feed.length, ...told.map(p => p.remoteLength))
    let i = feed.length < length ? length : feed.whole || 0
    while (i < length && feed.bitfield.get(i)) i++
    if (feed.length >= length) feed.whole = i
    return feed.length >= length && i === length
  }

  function talk (socket) {
    const options = { live, download: !serve, expectedFeeds: feeds.length }
    const stream = feeds[0].replicate(options)
    for (let i = 1; i < feeds.length; i++) feeds[i].replicate({ stream, live, download: !serve })
    stream.socket = socket
    streams.add(stream)
    let error = null
    let over = false
    const end = err => {
      if (err && !error) { error = err; console.error('peer.js: ' + err.message) }
      socket.destroy()
      stream.destroy()
      if (over) return
      over = true
      const agreed = !error && stream.expectedFeeds === 0
      streams.delete(stream)
      if (leaving || live) return
      if (serve) {
        if (opt.once) leave(0)
        else if (agreed || opt.port) leave(error ? 1 : 0)
      } else if (opt.port && wanted.size) {
        console.error('peer.js: the connection ended early')
        leave(1)
      }
    }
    socket.on('error', end)
    socket.on('close', () => end())
    stream.on('error', end)
    socket.pipe(stream).pipe(socket)
  }

  let rest = ''
  process.stdin.on('data', data => {
    rest += data
    for (let at; (at = rest.indexOf('\n')) >= 0; rest = rest.slice(at + 1)) input(rest.slice(0, at).trim())
  })
  process.stdin.on('end', () => { input(rest.trim()); leave(0) })
  process.stdin.on('error', () => leave(0))
  function input (line) {
    if (!line || leaving) return
    if (line === 'stop') return leave(0)
    const m = /^append(?:\s+([0-9a-fA-F]*))?$/.exec(line)
    if (!m) return fail(complaint('stdin: ' + line))
    work = work.then(() => call(cb => feeds[0].append(hex(m[1] || ''), cb))).catch(fail)
  }

  if (opt.listen) {
    server = net.createServer(talk)
    server.listen(0, '127.0.0.1', () => fs.writeSync(1, 'PORT ' + server.address().port + '\n'))
  } else {
    const socket = net.connect(+opt.port, '127.0.0.1', () => { socket.removeListener('error', fail); talk(socket) })
    socket.once('error', fail)
  }
}
