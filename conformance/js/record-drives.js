'use strict'
// drives.json: entries, indexes and whole histories of drives. drives/: small folders as hyperdrive and dat-storage keep
// them, and drives/index.json, which tells what is in each.
const crypto = require('crypto')
const fs = require('fs')
const os = require('os')
const path = require('path')
const { load, block, keyPairSeed } = require('./common')
const hyperdrive = load('hyperdrive')
const datStorage = load('dat-storage')
const ram = load('random-access-memory')
const hash = load('hypercore-crypto')
const appendTree = load('append-tree')
const treeMessages = load('append-tree/messages')
const driveMessages = load('hyperdrive/lib/messages')

const call = fn => new Promise((resolve, reject) => fn((err, value) => err ? reject(err) : resolve(value)))
const turn = ms => new Promise(resolve => setTimeout(resolve, ms))
const sha256 = b => crypto.createHash('sha256').update(b).digest('hex')
const ready = archive => new Promise((resolve, reject) => { archive.once('error', reject); archive.ready(err => err ? reject(err) : resolve(archive)) })
const bytes = op => op.seed === undefined ? Buffer.from(op.hex || '', 'hex') : block(op.seed, 0, { min: op.size, max: op.size })

module.exports = async function (tools) {
  await recordHistories(tools)
  await recordFolders(tools)
}

// ---- messages and indexes

function codecs () {
  const kinds = { Index: driveMessages.Index, Stat: driveMessages.Stat, Node: treeMessages.Node }
  const entries = []
  const show = v => Buffer.isBuffer(v) ? v.toString('hex') : v
  function valid (id, meaning, type, fields) {
    const object = {}
    for (const [k, v] of Object.entries(fields)) object[k] = ['content', 'value', 'paths'].includes(k) ? Buffer.from(v, 'hex') : v
    entries.push({ id, meaning, result: 'valid', type, fields, hex: kinds[type].encode(object).toString('hex'), js: 'decoded' })
  }
  function read (id, meaning, type, result, hex, fields) {
    const e = { id, meaning, result, type, hex }
    if (fields) e.fields = fields
    try {
      e.jsValue = Object.fromEntries(Object.entries(kinds[type].decode(Buffer.from(hex, 'hex'))).map(([k, v]) => [k, show(v)]))
      e.js = 'decoded'
    } catch (err) { e.js = 'throws' }
    entries.push(e)
  }
  const key = '11'.repeat(32)
  valid('index', 'the header of a drive', 'Index', { type: 'hyperdrive', content: key })
  valid('index-bare', 'a header without a content key', 'Index', { type: 'hyperdrive' })
  valid('index-other', 'the header of something else', 'Index', { type: 'hypertrie', content: key })
  valid('stat-mode', 'only what is required', 'Stat', { mode: 0o100644 })
  valid('stat-zeros', 'every field, zero', 'Stat', { mode: 0, uid: 0, gid: 0, size: 0, blocks: 0, offset: 0, byteOffset: 0, mtime: 0, ctime: 0 })
  valid('stat-file', 'a file', 'Stat', { mode: 0o100755, uid: 1000, gid: 100, size: 131073, blocks: 3, offset: 7, byteOffset: 300000, mtime: 1500000000123, ctime: 1500000001456 })
  valid('stat-folder', 'a folder, as mkdir writes it', 'Stat', { mode: 0o40755, offset: 7, byteOffset: 300000, mtime: 1500000000123, ctime: 1500000001456 })
  valid('stat-large', '32 and 53 bits', 'Stat', { mode: 0o100644, uid: 4294967295, gid: 4294967295, size: 9007199254740991, blocks: 137438953472, offset: 137438953472, byteOffset: 9007199254740991, mtime: 4102444800000, ctime: 4102444800000 })
  valid('node-put', 'a put', 'Node', { name: '/a/b', value: '08a48302', paths: '050100010200' })
  valid('node-delete', 'a deletion: no value', 'Node', { name: '/a/b', paths: '0003010101' })
  valid('node-empty-value', 'a value of no bytes is one: no deletion', 'Node', { name: '/a', value: '', paths: '010000' })
  valid('node-name', 'a name of two- to four-byte letters', 'Node', { name: '/\u00e9/\u20ac/\u{1f600}', value: '08a48302', paths: '0100000000' })
  valid('node-bare', 'a name alone', 'Node', { name: '/a' })
  read('index-empty', 'no bytes', 'Index', 'invalid', '')
  read('index-no-type', 'the required type is missing', 'Index', 'invalid', '1220' + key)
  read('index-cut', 'the content key is cut off', 'Index', 'invalid', '0a0a687970657264726976651220' + '11'.repeat(31))
  read('index-cut-type', 'the type is cut off', 'Index', 'invalid', '0a0a68797065')
  read('index-type-varint', 'the type as a varint', 'Index', 'invalid', '0801')
  read('index-unknown-field', 'an unknown field is skipped', 'Index', 'valid', '0a0a687970657264726976651801', { type: 'hyperdrive' })
  read('stat-empty', 'no bytes: mode is required', 'Stat', 'invalid', '')
  read('stat-no-mode', 'mode is missing', 'Stat', 'invalid', '2005')
  read('stat-cut', 'ends inside a varint', 'Stat', 'invalid', '08a483')
  read('stat-cut-prefix', 'ends after a field number', 'Stat', 'invalid', '08a4830220')
  read('stat-size-bytes', 'size as bytes', 'Stat', 'invalid', '08a48302220101')
  read('stat-varint-11', 'a varint of eleven bytes', 'Stat', 'invalid', '08a4830220' + '80'.repeat(10) + '00')
  read('stat-twice', 'of two modes the last one counts', 'Stat', 'valid', '08a4830208ed8302', { mode: 0o100755 })
  read('stat-order', 'fields in another order', 'Stat', 'valid', '200508a48302', { mode: 0o100644, size: 5 })
  read('stat-long-varint', 'a needless byte', 'Stat', 'acceptable', '08a483820020' + '05', { mode: 0o100644, size: 5 })
  read('stat-unknown-field', 'an unknown field is skipped', 'Stat', 'valid', '08a483029206027878', { mode: 0o100644 })
  read('stat-mode-33', 'mode has 33 bits', 'Stat', 'acceptable', '08a48382801020' + '05')
  read('node-empty', 'no bytes: the name is required', 'Node', 'invalid', '')
  read('node-no-name', 'the name is missing', 'Node', 'invalid', '1204' + '08a48302')
  read('node-cut', 'the value is cut off', 'Node', 'invalid', '0a022f61120408a4')
  read('node-cut-name', 'the name is cut off', 'Node', 'invalid', '0a052f61')
  read('node-name-empty', 'a name of no bytes', 'Node', 'acceptable', '0a001204' + '08a48302')
  read('node-value-varint', 'the value as a varint', 'Node', 'invalid', '0a022f611001')
  return entries
}

function indexes () {
  const tree = appendTree.prototype
  const entries = []
  function valid (id, meaning, number, index) {
    const code = tree._deflate(number, index)
    entries.push({ id, meaning, result: 'valid', number, index, hex: code.toString('hex'), js: 'decoded' })
  }
  function read (id, meaning, result, number, hex, index) {
    const e = { id, meaning, result, number, hex }
    if (index) e.index = index
    try {
      const got = tree._inflate(number, Buffer.from(hex, 'hex'))
      e.js = 'decoded'
      if (got.length < 100) e.jsValue = got
    } catch (err) { e.js = 'throws' }
    entries.push(e)
  }
  valid('first', 'the first entry, in the root', 1, [[1], [1]])
  valid('nested', 'an entry two folders deep', 4, [[1, 2, 3, 4], [4], [4]])
  valid('siblings', 'what else is in its folders', 9, [[2, 7, 9], [3, 8, 9], [9]])
  valid('delete', 'a deletion: the last list does not end with itself', 6, [[1, 2, 3, 6], [4]])
  valid('delete-last', 'a deletion of all that was in a folder', 7, [[1, 2, 3]])
  valid('delete-all', 'a deletion of the last entry', 2, [[]])
  valid('steps', 'steps of one to four bytes', 40000000, [[1, 129, 20000, 3000000, 40000000], [40000000]])
  valid('long', 'a list of 300', 301, [Array.from({ length: 301 }, (_, i) => i + 1), [301]])
  read('header-bits', 'other bits of the header are not looked at', 'acceptable', 4, '03030101010000', [[1, 2, 3, 4], [4], [4]])
  read('no-lists', 'a header alone', 'acceptable', 3, '01', [])
  read('empty', 'no bytes', 'invalid', 3, '')
  read('cut-header', 'ends inside the header', 'invalid', 3, '80')
  read('cut-count', 'ends inside a count', 'invalid', 3, '0180')
  read('cut-list', 'a list of three, two there', 'invalid', 5, '01030101')
  read('cut-step', 'ends inside a step', 'invalid', 5, '01010180')
  read('count-large', 'a list of 2^28 in no bytes', 'invalid', 5, '0180808080' + '01')
  read('count-255', 'a list of 255 in one byte', 'invalid', 5, '00ff0101')
  read('forward', 'points at a later entry', 'invalid', 5, '000109')
  read('forward-sum', 'steps that add up to a later entry', 'invalid', 5, '0002040' + '4')
  read('itself-twice', 'lists itself, and again by the header', 'invalid', 5, '010105')
  read('header-block', 'points at the header of the drive', 'invalid', 5, '000100')
  read('twice', 'lists an entry twice', 'invalid', 5, '0003010000')
  read('step-64', 'a step of 2^63', 'invalid', 5, '0001' + '80'.repeat(9) + '01')
  return entries
}

// ---- histories

const T = 1500000000000
const file = (p, text, more) => Object.assign({ op: 'put', path: p, hex: Buffer.from(text).toString('hex'), mode: 0o644, uid: 0, gid: 0, mtime: T, ctime: T + 1 }, more)
const del = p => ({ op: 'del', path: p })
const mkdir = (p, more) => Object.assign({ op: 'mkdir', path: p, mode: 0o755, mtime: T, ctime: T + 1 }, more)
const many = (n, f) => Array.from({ length: n }, (_, i) => f(i))

function histories () {
  return [
    ['empty', 'nothing but the header', []],
    ['one', 'one file', [file('/hello.txt', 'hello\n')]],
    ['stat', 'modes, owners, times', [file('/run', 'x', { mode: 0o755, uid: 1000, gid: 100, mtime: 0, ctime: 4102444800000 }), file('/set', 'y', { mode: 0o4755 }), file('/secret', 'z', { mode: 0o600, uid: 4294967294 })]],
    ['sizes', 'no bytes, one block, two, three', [file('/none', ''), { op: 'put', path: '/one', seed: 31, size: 65536, mode: 0o644, uid: 0, gid: 0, mtime: T, ctime: T }, { op: 'put', path: '/two', seed: 32, size: 65537, mode: 0o644, uid: 0, gid: 0, mtime: T, ctime: T }, { op: 'put', path: '/three', seed: 33, size: 140000, mode: 0o644, uid: 0, gid: 0, mtime: T, ctime: T }, file('/none2', '')]],
    ['dat', 'what was seen of dat 13: four files, an edit, a deletion', [file('/a', 'a'), file('/b', 'b'), file('/c', 'c'), file('/sub/b.bin', 'bb'), file('/sub/b.txt', 'bt'), del('/sub/b.txt'), del('/sub/b.bin')]],
    ['edits', 'one file, five times', many(5, i => file('/a', 'version ' + i))],
    ['delete-all', 'all deleted, one by one, then one more', [file('/a', '1'), file('/b/c', '2'), file('/b/d/e', '3'), del('/b/c'), del('/a'), del('/b/d/e'), file('/z', '4')]],
    ['delete-again', 'deleted and put again', [file('/a/b', '1'), del('/a/b'), file('/a/b', '2'), del('/a/b'), file('/a', '3')]],
    ['delete-missing', 'deleting what is not there still makes an entry', [file('/a/b', '1'), del('/x'), del('/a/x'), del('/a/b/x'), file('/c', '2')]],
    ['deep', 'forty folders deep', [file('/' + many(40, i => 'd' + i).join('/') + '/f', '1'), file('/' + many(20, i => 'd' + i).join('/') + '/g', '2'), del('/' + many(40, i => 'd' + i).join('/') + '/f')]],
    ['folders', 'entries for folders', [mkdir('/a'), mkdir('/a/b', { mode: 0o700 }), file('/a/b/c', '1'), mkdir('/e'), del('/a/b/c'), del('/e')]],
    ['twins', 'a file and a folder of one name', [file('/a', 'file'), file('/a/b', 'in it'), file('/a', 'again'), file('/a/c', 'more'), file('/a/b/d', 'deeper'), del('/a/b')]],
    ['twin-deleted', 'a folder entry deleted while there are files below', [mkdir('/a'), file('/a/b', '1'), file('/c', '2'), del('/a'), file('/d', '3')], ['JsCloneCrash']],
    ['lost', 'a deletion that loses a file: the newest change in /a/b was a deletion, so that deleting /a/c takes /a for empty', [file('/a/b/x', 'x'), file('/a/b/y', 'y'), file('/a/c', 'c'), del('/a/b/y'), del('/a/c'), file('/d', 'd'), file('/a/e', 'e')], ['Lost']],
    ['lost-deep', 'the same further down', [file('/b/b/b/a/b', '1'), file('/b/b/b/b/a', '2'), del('/b/b/b/a/b'), file('/b/a/a', '3'), file('/a/a', '4'), file('/b/b/a/b', '5'), del('/b/b/a/b'), del('/b/a/a')], ['Lost']],
    ['names', 'names of all kinds', [file('/\u00e9t\u00e9', '1'), file('/e\u0301', '2'), file('/\u{1f600}', '3'), file('/a b', '4'), file('/__proto__/constructor', '5'), file('/' + 'n'.repeat(255), '6'), file('/.hidden/.x', '7'), file('/A', '8'), file('/a', '9')]],
    ['mixed', 'several folders, edits and deletions by turns', many(60, i => i % 7 === 6 ? del('/' + 'abc'[i % 3] + '/' + (i - 6) % 5) : file('/' + 'abc'[i % 3] + '/' + (i % 2 ? i % 5 : 'x/' + i % 4), 'c' + i))],
    ['large', 'a folder of 1,200 entries', many(1200, i => file('/big/f' + String(i).padStart(4, '0'), '')).concat([del('/big/f0599'), file('/big/f0600', ''), file('/other', '')]), ['Hashed']]
  ]
}

async function tell (archive, version) {
  const view = archive.checkout(version)
  const found = {}
  const visit = async dir => {
    let names = []
    try { names = await call(cb => view.readdir(dir, cb)) } catch (err) { if (!err.notFound) throw err }
    for (const name of names) {
      const child = path.posix.join(dir, name)
      const node = await call(cb => view.tree.get(child, { node: true }, (err, n) => err && err.notFound ? cb(null, null) : cb(err, n)))
      if (node && node.type === 'put') found[child] = node.version
      await visit(child)
    }
  }
  await visit('/')
  return Object.fromEntries(Object.entries(found).sort((a, b) => a[1] - b[1] || (a[0] < b[0] ? -1 : 1)))
}

async function apply (archive, op) {
  const st = {}
  for (const k of ['mode', 'uid', 'gid', 'mtime', 'ctime']) if (op[k] !== undefined) st[k] = op[k]
  if (op.op === 'put') await call(cb => archive.writeFile(op.path, bytes(op), st, cb))
  else if (op.op === 'mkdir') await call(cb => archive.mkdir(op.path, st, cb))
  else await call(cb => archive.unlink(op.path, cb))
}

async function recordHistories ({ random, from, write }) {
  random.start(17)
  const list = []
  let seed = 100
  for (const [id, meaning, ops, flags] of histories()) {
    const pair = hash.keyPair(keyPairSeed(++seed))
    const archive = await ready(hyperdrive(() => ram(), pair.publicKey, { secretKey: pair.secretKey }))
    for (const feed of [archive.metadata, archive.content]) feed.setMaxListeners(0)
    for (const op of ops) await apply(archive, op)
    const large = (flags || []).includes('Hashed')
    const h = { id, meaning, flags: flags || [], seed, key: archive.key.toString('hex'), secretKey: pair.secretKey.toString('hex'), contentKey: archive.content.key.toString('hex'), contentLength: archive.content.length, contentByteLength: archive.content.byteLength, ops }
    const blocks = []
    for (let i = 0; i < archive.metadata.length; i++) blocks.push(await call(cb => archive.metadata.get(i, cb)))
    if (large) {
      h.ops = ops.map(o => o.op === 'del' ? o : { op: o.op, path: o.path })
      h.defaults = Object.assign({}, ops[0], { op: undefined, path: undefined })
      h.hashes = blocks.map(b => sha256(b).slice(0, 16))
      h.listings = {}
      for (const v of [1, 600, 1200, 1201, 1202, 1203]) {
        const found = await tell(archive, v)
        h.listings[v] = sha256(Object.entries(found).map(([p, seq]) => seq + ' ' + p + '\n').join(''))
      }
    } else {
      h.blocks = blocks.map(b => b.toString('hex'))
      h.versions = []
      for (let v = 1; v < blocks.length; v++) h.versions.push(await tell(archive, v))
    }
    // look-ups: every path that ever was, and some that were not, in the newest version
    h.lookups = {}
    const paths = [...new Set(ops.map(o => o.path))].slice(0, 40).concat(['/nowhere', '/a/nowhere'])
    for (const p of paths) {
      if (!ops.length) break
      h.lookups[p] = await call(cb => archive.tree.get(p, { node: true }, (err, n) => err ? (err.notFound ? cb(null, null) : cb(err)) : cb(null, n.type === 'put' ? n.version : null)))
    }
    list.push(h)
  }
  write('drives.json', {
    format: 'datsync-vectors/1',
    kind: 'drives',
    about:
      'Drives: the messages in metadata blocks (codecs), the index in a Node (indexes; number is the entry that it is ' +
      'in), and histories. A history is a list of ops on a new drive, whose metadata key pair is that of seed: put a ' +
      'file (its bytes are hex, or block 0 of seed and size) with this mode (the type of a file is added), uid, gid, ' +
      'mtime, ctime; mkdir an entry for a folder; del. blocks are all metadata blocks that this wrote; versions what ' +
      'hyperdrive lists in each version from 1 on, path to entry number, by number; lookups what it finds in the newest, ' +
      'null for nothing. In a Hashed one, ops take what they lack from defaults, hashes are the first 8 bytes of the ' +
      'SHA-256 of each block, and listings that of the lines "number path", by number and then path, of some versions.',
    recordedFrom: from('hyperdrive', 'append-tree'),
    flags: {
      Hashed: 'too long to be spelled out',
      Lost: 'the deployed deletion loses entries that were not deleted; who writes drives should not, but who reads them finds what is listed here',
      JsCloneCrash: 'hyperdrive ends with an exception when it downloads this drive'
    },
    codecs: codecs(),
    indexes: indexes(),
    histories: list
  })
}

// ---- folders

async function recordFolders ({ random, from, write, ranges, out }) {
  random.start(18)
  const root = path.join(out, 'drives')
  const secretDir = path.join(root, 'secret_keys')
  const entries = []
  const dir = name => path.join(root, name)
  const pair = hash.keyPair(keyPairSeed(90))
  for (const name of ['owner', 'clone', 'half', path.join('secret_keys', hash.discoveryKey(pair.publicKey).toString('hex', 0, 1))]) fs.rmSync(dir(name), { recursive: true, force: true })
  fs.mkdirSync(root, { recursive: true })

  async function openOwner () {
    return ready(hyperdrive(datStorage(dir('owner'), { secretDir }), pair.publicKey, { secretKey: pair.secretKey, latest: true, indexing: true }))
  }
  async function openReader (name) {
    return ready(hyperdrive(datStorage(dir(name), { secretDir }), pair.publicKey, { latest: true }))
  }
  async function change (archive, op) {
    const where = path.join(dir('owner'), op.path)
    fs.mkdirSync(path.dirname(where), { recursive: true })
    if (op.op === 'put') fs.writeFileSync(where, bytes(op))
    else if (op.op === 'del') fs.rmSync(where)
    await apply(archive, op)
  }
  async function finish (archive, name, meaning, flags) {
    if (!archive.writable && !flags.includes('Dat13')) while (archive._latestVersion !== archive.version) await turn(10)
    await turn(50)
    await call(cb => archive.metadata._sync(null, cb))
    await call(cb => archive.content._sync(null, cb))
    const held = feed => ranges(Array.from({ length: feed.length }, (_, i) => i).filter(i => feed.has(i)))
    const e = { name, meaning, flags, key: archive.key.toString('hex'), contentKey: archive.content.key.toString('hex'), writable: archive.writable, version: archive.version, metadataLength: archive.metadata.length, metadataBlocks: held(archive.metadata), contentLength: archive.content.length, contentBlocks: held(archive.content), listing: await tell(archive, archive.version) }
    await call(cb => archive.close(cb))
    e.files = {}
    const walk = sub => {
      for (const f of fs.readdirSync(path.join(dir(name), sub)).sort()) {
        const child = sub ? sub + '/' + f : f
        if (fs.statSync(path.join(dir(name), child)).isDirectory()) { walk(child); continue }
        const b = fs.readFileSync(path.join(dir(name), child))
        e.files[child] = { size: b.length, sha256: sha256(b) }
      }
    }
    walk('')
    entries.push(e)
  }

  const owner = await openOwner()
  for (const op of [file('/hello.txt', 'hello\n'), file('/sub/a.txt', 'a\n', { mode: 0o755 }), { op: 'put', path: '/sub/deep/two.bin', seed: 91, size: 70000, mode: 0o644, uid: 0, gid: 0, mtime: T, ctime: T }, file('/gone', 'gone\n'), file('/empty', ''), file('/hello.txt', 'hello again\n'), del('/gone'), file('/last', 'last\n')]) await change(owner, op)

  // a whole clone, by the wire
  const reader = await openReader('clone')
  const a = owner.replicate({ live: true })
  const b = reader.replicate({ live: true })
  a.on('error', () => {})
  b.on('error', () => {})
  a.pipe(b).pipe(a)
  const whole = () => reader.content && reader.version === owner.version && [...Array(owner.content.length).keys()].every(i => reader.content.has(i) || !owner.content.has(i))
  while (!whole()) await turn(20)
  a.destroy()
  b.destroy()

  // half a clone: all metadata, the two first blocks of content that there are
  async function fetch (src, dst, i) {
    const proof = await call(cb => src.proof(i, { digest: dst.digest(i) }, cb))
    const data = await call(cb => src.get(i, cb))
    await call(cb => dst.put(i, data, { nodes: proof.nodes.slice(), signature: proof.signature }, cb))
  }
  let half = await openReader('half')
  for (let i = 0; i < owner.metadata.length; i++) await fetch(owner.metadata, half.metadata, i)
  await call(cb => half._ensureContent(cb))
  await call(cb => half.metadata._sync(null, cb))
  await call(cb => half.close(cb))
  half = await openReader('half')
  await call(cb => half._ensureContent(cb))
  for (const i of [...Array(owner.content.length).keys()].filter(i => owner.content.has(i)).slice(0, 2)) await fetch(owner.content, half.content, i)

  await finish(half, 'half', "a reader's clone that was interrupted: all metadata, two blocks of content", ['Sparse'])
  await finish(reader, 'clone', "a reader's whole clone of owner", ['NoEmptyFiles'])
  await finish(owner, 'owner', 'the owner: its secret key is in secret_keys, the content in the files themselves', [])

  // what dat wrote stays as it is: hyperdrive opens a copy
  for (const name of ['dat-13', 'dat-13-clone'].filter(name => fs.existsSync(dir(name)))) {
    const copy = fs.mkdtempSync(path.join(os.tmpdir(), 'drive-'))
    fs.cpSync(dir(name), copy, { recursive: true })
    const archive = hyperdrive(datStorage(copy, { secretDir }), null, { latest: true, createIfMissing: false })
    archive._trackLatest = () => {}
    await ready(archive)
    await call(cb => archive._ensureContent(cb))
    await finish(archive, name, name === 'dat-13' ? 'dat share of four files, one of them edited and one deleted while it ran' : 'dat clone of dat-13, after that', name === 'dat-13' ? ['Dat13'] : ['Dat13', 'NoEmptyFiles'])
    fs.rmSync(copy, { recursive: true })
  }

  write('drives/index.json', {
    format: 'datsync-vectors/1',
    kind: 'drive-folders',
    about:
      'Drives on disk as hyperdrive and dat-storage keep them (`dat` does so through these), one folder for each entry, ' +
      'named name; the secret keys lie in secret_keys, which in a home folder is .dat/secret_keys. listing is the newest ' +
      'version, path to entry number. metadataBlocks and contentBlocks are half-open ranges of what the bitfields claim. ' +
      'files are all files of the folder. A folder that is Dat13 was written by dat itself, with a random key and the ' +
      'time of the day; it is not recorded anew.',
    recordedFrom: Object.assign(from('hyperdrive', 'dat-storage', 'append-tree', 'random-access-file'), { dat: '13.13.1' }),
    flags: {
      Sparse: 'not all content of the newest version is there',
      NoEmptyFiles: 'files of no bytes are in the listing and not in the folder: the deployed code makes none',
      Dat13: 'written by dat 13.13.1'
    },
    entries
  })
}
