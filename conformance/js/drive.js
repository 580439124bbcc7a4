'use strict'
// The deployed JavaScript drive (hyperdrive 9.16 with dat-storage: the folder that `dat` keeps) as a peer under test.
//
//   node drive.js import DIR --secret-dir S [--key-seed HEX] [--mtime] [--ops]
//   node drive.js share DIR [--secret-dir S] (--listen | --port N) [--live]
//   node drive.js clone DIR --key HEX (--listen | --port N) [--live]
//   node drive.js verify DIR | list DIR [--version N] | history DIR | all DIR
//   all with [--hyperdrive VERSION]: 9.16.0, or one of js/old/package.json, upon the hypercore of its time
//
// import: makes DIR a drive, or opens it again, and brings the drive up to the folder's files as `dat` does: content
//   stays in the files; `.dat` is left out and no other name, folders get no entry; a file counts as changed by size or
//   if it is younger than its entry, whose mtime is the time of import, or with --mtime by size and mtime, which is then
//   the file's. --ops: nothing is imported by itself; stdin has one JSON object a line, as below. --key-seed: the
//   metadata key pair's seed, for a new drive. Prints {"key","content","version","puts","dels"}.
// ops: {"op":"put","path","text"|"hex","mode","uid","gid","mtime","ctime"} writes the file and puts it, with "keep" it is
//   there already; {"op":"del","path"}; {"op":"mkdir","path","mode",...} (an entry for a folder). All but op and path may
//   be left out. A path of an op is taken as it stands.
// share: serves what DIR holds. Ops on stdin change it, if it is the owner's; "stop" or the end of stdin: exit 0.
//   Without --live also when the first connection ends. clone: exit 0 when all metadata and the content of its newest version
//   are stored and everything is closed; 1 if its connection ends before (with --listen it waits for another) or 20 s pass
//   without a new block. --live: until stop. --port dials 127.0.0.1, --listen prints "PORT n".
// verify: reads every block of the newest version's entries, from the files, and holds it against the tree. Prints
//   {"key","version","files","blocks","valid","invalid","missing","bad":[paths]}; exit 1 if not all are valid.
// list: {"version","entries":{path:{"seq","size","mode","mtime",...}}}. history: {"history":[{"version","type","path"}]}.
// all: what those three print, in one object, and "listings": of each version from 1 on {path:seq} of its files; exit 0.
//
// exit: 0 done, 1 failed, 89 not implemented. env: DEPS as in common.js
const fs = require('fs')
const net = require('net')
const path = require('path')
const { load, loadOld, hasOld, onTold, isWhole } = require('./common')

const NOT_IMPLEMENTED = 89
const words = []
const opt = {}
const withValue = new Set(['key', 'port', 'secret-dir', 'version', 'key-seed', 'hyperdrive'])
const flags = new Set(['listen', 'live', 'ops', 'mtime'])
for (let i = 2; i < process.argv.length; i++) {
  const a = process.argv[i]
  if (!a.startsWith('--')) { words.push(a); continue }
  const name = a.slice(2)
  if (flags.has(name)) { opt[name] = true; continue }
  if (!withValue.has(name)) { console.error('drive.js: no option ' + a); process.exit(NOT_IMPLEMENTED) }
  if ((opt[name] = process.argv[++i]) === undefined) fail(complaint('no value for ' + a))
}
const old = opt.hyperdrive && opt.hyperdrive !== '9.16.0' ? 'hyperdrive-' + opt.hyperdrive : null
if (old && !hasOld(old)) { console.error('drive.js: no ' + old); process.exit(NOT_IMPLEMENTED) }
const hyperdrive = old ? loadOld(old) : load('hyperdrive')
const storage = old ? loadOld('dat-storage') : load('dat-storage')
let hash = null // to make a drive and to verify one; hypercore before 6.13 comes without it
try { hash = load('hypercore-crypto') } catch (err) {}

const commands = { import: importFiles, share: replicate, clone: replicate, verify: look(verify), list: look(list), history: look(history), all: look(all) }
const command = words.shift()
const dir = words.shift()
if (!dir || !Object.prototype.hasOwnProperty.call(commands, command)) {
  console.error('usage: the head of drive.js')
  process.exit(command && dir ? NOT_IMPLEMENTED : 1)
}
setImmediate(() => Promise.resolve(commands[command]()).catch(fail))

let closing = false
function fail (err) {
  if (closing && err && /^(Feed is )?[cC]losed$/.test(err.message)) return // of what still waits, in versions before 6.26
  console.error('drive.js: ' + (err && err.stack && !err.expected ? err.stack : err && err.message ? err.message : err))
  process.exit(1)
}
function complaint (text) { const e = new Error(text); e.expected = true; return e }
function call (fn) { return new Promise((resolve, reject) => fn((err, value) => err ? reject(err) : resolve(value))) }
function print (object) { fs.writeSync(1, JSON.stringify(object) + '\n') }
function writeAll (text) { for (let b = Buffer.from(text + '\n'), at = 0; at < b.length;) { try { at += fs.writeSync(1, b, at) } catch (e) { if (e.code !== 'EAGAIN') throw e } } }

// ---- opening and closing

function isDrive () { return fs.existsSync(path.join(dir, '.dat', 'metadata.key')) }

async function open (key, more) {
  // Without --secret-dir the owner's own keys must not be found, nor new ones left, in the home folder
  const secretDir = opt['secret-dir'] ? path.resolve(opt['secret-dir']) : path.join(path.resolve(dir), '.dat', 'no-secret-keys')
  const archive = hyperdrive(storage(path.resolve(dir), { secretDir }), key, Object.assign({ latest: true, indexing: true }, more))
  // What only looks must not bring a reader's folder to the newest version, nor make a reader's of an owner's
  if (!['clone', 'share'].includes(command)) archive._trackLatest = () => {}
  await new Promise((resolve, reject) => {
    archive.once('error', reject)
    archive.ready(err => err ? reject(err) : resolve())
  })
  archive.removeAllListeners('error')
  archive.on('error', fail)
  return archive
}
function openStored () {
  if (!isDrive()) throw complaint('no drive in ' + dir)
  return open(null, { createIfMissing: false })
}
async function close (archive) {
  closing = true
  await call(cb => archive.metadata._sync(null, cb))
  if (archive.content) await call(cb => archive.content._sync(null, cb))
  await call(cb => archive.close(cb))
}

// ---- reading the tree: each folder is asked for once, whatever is in it

async function entries (tree) {
  const found = {}
  const queue = ['/']
  const visited = new Set(queue)
  while (queue.length) {
    const dirName = queue.pop()
    let nodes = []
    try { nodes = await call(cb => tree.list(dirName, { node: true }, cb)) } catch (err) { if (!err.notFound) throw err }
    const depth = dirName === '/' ? 0 : dirName.split('/').length - 1
    for (const node of nodes) {
      const child = '/' + node.name.split('/').slice(1, depth + 2).join('/')
      if (visited.has(child)) continue
      visited.add(child)
      let own = node
      if (node.name !== child) own = await call(cb => tree.get(child, { node: true }, (err, n) => err && err.notFound ? cb(null, null) : cb(err, n)))
      if (own && own.type === 'put') found[child] = own
      if (node.name !== child || folders(tree, node, depth)) queue.push(child)
    }
  }
  return found
}
// Does the index of this entry list anything below its own path?
function folders (tree, node, depth) {
  const raw = tree._cache && tree._cache.get(node.version)
  if (!raw) return true
  const index = tree._inflate(node.version, raw.paths)
  return index.length > depth + 1 && index[depth + 1].some(seq => seq !== node.version)
}

function look (what) {
  return async function () {
    const archive = await openStored()
    const told = await what(archive)
    writeAll(JSON.stringify(told))
    await close(archive)
    if (what === verify && told.valid !== told.blocks) process.exit(1)
  }
}

async function list (archive) {
  const version = opt.version === undefined ? archive.version : +opt.version
  const found = version > 0 ? await entries(archive.tree.checkout(version)) : {}
  const out = {}
  for (const name of Object.keys(found).sort()) out[name] = Object.assign({ seq: found[name].version }, found[name].value)
  return { version, entries: out }
}

async function history (archive) {
  const out = []
  await new Promise((resolve, reject) => {
    if (archive.version < 1) return resolve()
    archive.history({ live: false }).on('data', n => out.push({ version: n.version, type: n.type, path: n.name })).on('error', reject).on('end', resolve)
  })
  return { history: out }
}

async function verify (archive) {
  const report = { key: archive.key.toString('hex'), version: archive.version, files: 0, blocks: 0, valid: 0, invalid: 0, missing: 0, bad: [] }
  await call(cb => archive._ensureContent(cb))
  const found = archive.version > 0 ? await entries(archive.tree) : {}
  for (const [name, node] of Object.entries(found)) {
    const st = node.value
    if ((st.mode & 0xf000) === 0x4000) continue
    report.files++
    let good = true
    for (let i = st.offset; i < st.offset + st.blocks; i++) {
      report.blocks++
      let kind = 'valid'
      if (!archive.content.has(i)) kind = 'missing'
      else {
        try {
          const data = await call(cb => archive.content.get(i, { wait: false }, cb))
          const leaf = await call(cb => archive.content._storage.getNode(2 * i, cb))
          if (leaf.size !== data.length || !hash.data(data).equals(leaf.hash)) kind = 'invalid'
        } catch (err) { kind = 'invalid' }
      }
      report[kind]++
      if (kind !== 'valid') good = false
    }
    if (!good) report.bad.push(name)
  }
  return report
}

async function all (archive) {
  const listings = []
  for (let v = 1; v <= archive.version; v++) {
    const found = await entries(archive.tree.checkout(v))
    listings.push({})
    for (const name of Object.keys(found).sort()) if ((found[name].value.mode & 0xf000) !== 0x4000) listings[v - 1][name] = found[name].version
  }
  return Object.assign({ listings }, await verify(archive), await list(archive), await history(archive))
}

// ---- changing it

function put (archive, name, st) {
  return new Promise((resolve, reject) => {
    const out = archive.createWriteStream(name, st)
    out.on('error', reject)
    out.on('finish', resolve)
    const file = path.join(dir, name)
    if (!fs.statSync(file).size) return out.end()
    fs.createReadStream(file).on('error', reject).pipe(out) // 64 KiB at a time, which become the blocks
  })
}
async function change (archive, op) {
  const st = {}
  for (const name of ['mode', 'uid', 'gid', 'mtime', 'ctime']) if (op[name] !== undefined) st[name] = op[name]
  const file = path.join(dir, op.path)
  if (op.op === 'put') {
    if (!op.keep) {
      fs.mkdirSync(path.dirname(file), { recursive: true })
      fs.writeFileSync(file, op.hex !== undefined ? Buffer.from(op.hex, 'hex') : op.text || '')
    }
    await put(archive, op.path, st)
  } else if (op.op === 'del') {
    fs.rmSync(file, { force: true })
    await call(cb => archive.unlink(op.path, cb))
  } else if (op.op === 'mkdir') {
    fs.mkdirSync(file, { recursive: true })
    await call(cb => archive.mkdir(op.path, st, cb))
  } else throw complaint('no op ' + op.op)
}

function * walk (name) {
  for (const entry of fs.readdirSync(path.join(dir, name), { withFileTypes: true }).sort((a, b) => a.name < b.name ? -1 : 1)) {
    const child = name + '/' + entry.name
    if (child === '/.dat') continue
    if (entry.isDirectory()) yield * walk(child)
    else if (entry.isFile()) yield child
  }
}

async function importFiles () {
  if (!opt['secret-dir']) throw complaint('import needs --secret-dir')
  fs.mkdirSync(dir, { recursive: true })
  const more = {}
  let key = null
  if (opt['key-seed'] && !isDrive()) {
    const pair = hash.keyPair(Buffer.from(opt['key-seed'], 'hex'))
    key = pair.publicKey
    more.secretKey = pair.secretKey
  }
  const archive = await open(key, more)
  if (!archive.writable) throw complaint('this drive is not ours')
  let puts = 0
  let dels = 0
  if (opt.ops) {
    for (const line of fs.readFileSync(0, 'utf8').split('\n')) {
      if (!line.trim()) continue
      const op = JSON.parse(line)
      await change(archive, op)
      if (op.op === 'del') dels++; else puts++
    }
  } else {
    const before = archive.version > 0 ? await entries(archive.tree) : {}
    const here = new Set(walk(''))
    for (const name of Object.keys(before).sort()) {
      if (here.has(name) || before[name].value.mode & 0x4000) continue
      await call(cb => archive.unlink(name, cb))
      dels++
    }
    for (const name of here) {
      const file = fs.statSync(path.join(dir, name))
      const mtime = Math.floor(file.mtimeMs)
      const old = before[name] && before[name].value
      if (old && old.size === file.size && (opt.mtime ? old.mtime === mtime : mtime <= old.mtime)) continue
      await put(archive, name, opt.mtime ? { mode: file.mode, mtime, ctime: mtime } : { mode: file.mode })
      puts++
    }
  }
  print({ key: archive.key.toString('hex'), content: archive.content.key.toString('hex'), version: archive.version, puts, dels })
  await close(archive)
}

// ---- share, clone

async function replicate () {
  if (!!opt.listen === !!opt.port) throw complaint('either --listen or --port N')
  const cloning = command === 'clone'
  let archive
  if (cloning) {
    if (!/^[0-9a-f]{64}$/i.test(opt.key || '')) throw complaint('clone needs --key HEX')
    fs.mkdirSync(dir, { recursive: true })
    archive = await open(Buffer.from(opt.key, 'hex'), { indexing: false })
  } else archive = await openStored()
  if (!cloning && fs.existsSync(path.join(dir, '.dat', 'metadata.ogd')) && !archive.writable) throw complaint('share of an owner needs --secret-dir')
  const live = !!opt.live
  const streams = new Set()
  let server = null
  let leaving = false
  let work = Promise.resolve()

  async function leave (code) {
    if (leaving) return
    leaving = true
    try {
      await work
      if (server) server.close()
      for (const s of streams) { s.stream.finalize(); s.socket.end() }
      await close(archive)
    } catch (err) { return fail(err) }
    for (const s of streams) s.socket.destroy()
    process.exit(code)
  }

  function held (feed, st) {
    for (let i = st.offset; i < st.offset + st.blocks; i++) if (!feed.has(i)) return false
    return true
  }
  // All metadata that any peer told of, and every block of the newest version. Asked again after each change.
  let synced = false
  let heard = false // some peer has told what it has; that is nothing new for the feed's remoteLength if all is here already
  let busy = false
  async function look () {
    if (!cloning || live || leaving || busy || !synced) return
    const feed = archive.metadata
    const told = feed.peers.filter(p => p.remoteLength > 0).map(p => p.remoteLength)
    if (!heard || !feed.length || feed.length < Math.max(0, ...told) || !isWhole(feed, feed.length) || !archive.content) return
    busy = true
    try {
      const found = archive.version > 0 ? await entries(archive.tree) : {}
      const whole = Object.values(found).every(n => held(archive.content, n.value))
      if (whole && archive._latestVersion === archive.version) leave(0)
    } catch (err) { fail(err) }
    busy = false
  }
  if (cloning) {
    let last = Date.now()
    const progress = () => { last = Date.now() }
    const watch = feed => feed.on('download', progress)
    watch(archive.metadata)
    onTold(archive.metadata, () => { heard = true })
    if (archive.content) watch(archive.content)
    else archive.on('content', () => watch(archive.content))
    archive.on('sync', () => { synced = true; look() })
    if (!live) {
      setInterval(() => {
        look()
        if (streams.size && Date.now() - last > 20000) { console.error('drive.js: nothing came for 20 s'); leave(1) }
      }, 100)
    }
  }

  function talk (socket) {
    const stream = archive.replicate({ live: live || cloning, upload: true, download: !archive.writable })
    const entry = { stream, socket }
    streams.add(entry)
    let over = false
    const end = err => {
      if (err && !leaving) console.error('drive.js: ' + err.message)
      socket.destroy()
      stream.destroy()
      if (over) return
      over = true
      streams.delete(entry)
      if (leaving || live) return
      if (!cloning) leave(0)
      else if (opt.port) setTimeout(() => { console.error('drive.js: the connection ended early'); leave(1) }, 1000)
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
    work = work.then(() => change(archive, JSON.parse(line))).catch(fail)
  }

  if (opt.listen) {
    server = net.createServer(talk)
    server.listen(0, '127.0.0.1', () => fs.writeSync(1, 'PORT ' + server.address().port + '\n'))
  } else {
    const socket = net.connect(+opt.port, '127.0.0.1', () => { socket.removeListener('error', fail); talk(socket) })
    socket.once('error', fail)
  }
}
