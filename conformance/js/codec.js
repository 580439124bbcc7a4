'use strict'
// The codecs of the deployed JavaScript packages as the suite's adapter offers them: one JSON object a line in, one out
// (conformance/README.md has the ops). Numbers beyond 2^53 are as inexact here as they are there.
//
// env: DEPS as in common.js
const readline = require('readline')
const { load } = require('./common')
const messages = load('hypercore-protocol/messages')
const hash = load('hypercore-crypto')
const rle = load('bitfield-rle')
const sodium = load('sodium-universal')
const treeIndex = load('hypercore/lib/tree-index')
const appendTree = load('append-tree')
const dns = optional('dns-packet')
const bencode = optional('bencode')
const varint = require('module').createRequire(load.resolve('hypercore-protocol'))('varint')

const NAMES = ['Feed', 'Handshake', 'Info', 'Have', 'Unhave', 'Want', 'Unwant', 'Request', 'Cancel', 'Data']
const KINDS = { // as schema.proto has them: u a number, b a bool, x bytes, s names, n nodes
  Feed: { discoveryKey: 'x', nonce: 'x' },
  Handshake: { id: 'x', live: 'b', userData: 'x', extensions: 's', ack: 'b' },
  Info: { uploading: 'b', downloading: 'b' },
  Have: { start: 'u', length: 'u', bitfield: 'x', ack: 'b' },
  Unhave: { start: 'u', length: 'u' },
  Want: { start: 'u', length: 'u' },
  Unwant: { start: 'u', length: 'u' },
  Request: { index: 'u', bytes: 'u', hash: 'b', nodes: 'u' },
  Cancel: { index: 'u', bytes: 'u', hash: 'b' },
  Data: { index: 'u', value: 'x', nodes: 'n', signature: 'x' }
}
// The decoder fills these in; whether they were on the wire can't be told any more
const DEFAULTS = { length: { Have: 1, Unhave: 1, Want: 0, Unwant: 0 }, live: false, ack: false, uploading: false, downloading: false, bytes: 0, hash: false, nodes: 0 }
const FEEDS = 256

function optional (name) {
  try { return load(name) } catch (err) { return null }
}

// ---- JSON and back

const text = n => BigInt(n).toString()
function number (value) {
  if (!/^\d{1,20}$/.test(String(value)) || BigInt(value) >= 1n << 64n) throw new Error('not a number: ' + value)
  return Number(value)
}
function bytes (value, size) {
  if (typeof value !== 'string' || !/^([0-9a-f]{2})*$/i.test(value)) throw new Error('not hex: ' + value)
  const b = Buffer.from(value, 'hex')
  if (size !== undefined && b.length !== size) throw new Error('not ' + size + ' bytes: ' + value)
  return b
}
const hex = b => b.toString('hex')
const nodeOut = n => ({ index: text(n.index), hash: hex(n.hash), size: text(n.size) })
const nodeIn = n => ({ index: number(n.index || 0), hash: bytes(n.hash, 32), size: number(n.size) })

function fieldOut (kind, value) {
  switch (kind) {
    case 'u': return text(value)
    case 'x': return hex(value)
    case 'n': return value.map(nodeOut)
    default: return value
  }
}
function fieldIn (kind, value) {
  switch (kind) {
    case 'u': return number(value)
    case 'x': return bytes(value)
    case 'n': return value.map(nodeIn)
    default: return value
  }
}
function isDefault (name, key, value) {
  if (value === null || (Array.isArray(value) && !value.length)) return true
  if (!(key in DEFAULTS)) return false
  const d = DEFAULTS[key]
  return (typeof d === 'object' ? d[name] : d) === value
}

// ---- the ops

const ops = {
  decode ({ frame }) { // as Protocol._onmessage and Feed._onmessage do
    const b = bytes(frame)
    if (b.length < 2) return { ignored: true }
    const header = varint.decode(b, 0)
    let at = varint.decode.bytes
    const channel = header >> 4
    const type = header & 15
    if (channel >= FEEDS || channel < 0) throw new Error('too many feeds')
    const out = { channel: text(channel), type: text(type) }
    if (type === 15) {
      const id = varint.decode(b, at)
      at += varint.decode.bytes
      return Object.assign(out, { message: 'Extension', fields: { id: text(id), payload: hex(b.subarray(at)) } })
    }
    const name = NAMES[type]
    if (!name) return { ignored: true }
    const message = messages[name].decode(b, at, b.length)
    if (name === 'Feed' && (message.discoveryKey.length !== 32 || (message.nonce && message.nonce.length !== 24))) throw new Error('invalid feed message')
    const fields = {}
    for (const [key, kind] of Object.entries(KINDS[name])) {
      if (!isDefault(name, key, message[key])) fields[key] = fieldOut(kind, message[key])
    }
    return Object.assign(out, { message: name, fields })
  },
  encode ({ channel, type, message, fields }) {
    const said = message === undefined ? type : message
    const index = said === 'Extension' ? 15 : NAMES.includes(said) ? NAMES.indexOf(said) : number(said)
    const head = Buffer.from(varint.encode(number(channel || 0) * 16 + index))
    if (index === 15) return { frame: hex(Buffer.concat([head, Buffer.from(varint.encode(number(fields.id))), bytes(fields.payload)])) }
    const name = NAMES[index]
    if (!name) throw new Error('no message of this type')
    const m = {}
    for (const [key, value] of Object.entries(fields)) {
      if (!KINDS[name][key]) throw new Error(name + ' has no field ' + key)
      m[key] = fieldIn(KINDS[name][key], value)
    }
    return { frame: hex(Buffer.concat([head, messages[name].encode(m)])) }
  },
  'rle.decode' ({ bytes: code, limit }) {
    const b = bytes(code)
    if (limit !== undefined && rle.decodingLength(b) > number(limit)) throw new Error('longer than the limit')
    return { bits: hex(rle.decode(b)) }
  },
  'rle.encode' ({ bits }) { return { bytes: hex(rle.encode(bytes(bits))) } },
  'discovery-key' ({ key }) { return { discoveryKey: hex(hash.discoveryKey(bytes(key, 32))) } },
  leaf ({ data }) { return { hash: hex(hash.data(bytes(data))) } },
  parent ({ left, right }) {
    const [a, b] = [nodeIn(left), nodeIn(right)]
    a.index = 0
    b.index = 2
    return { hash: hex(hash.parent(a, b)), size: text(a.size + b.size) }
  },
  root ({ roots }) { return { hash: hex(hash.tree(roots.map(nodeIn))) } },
  sign ({ secretKey, message }) { return { signature: hex(hash.sign(bytes(message), bytes(secretKey, 64))) } },
  verify ({ key, message, signature }) {
    const s = bytes(signature)
    return { valid: s.length === 64 && hash.verify(bytes(message), s, bytes(key, 32)) }
  },
  keystream ({ key, nonce, offset, length }) {
    // the stream as the protocol runs it: from its beginning, in pieces
    const x = sodium.crypto_stream_xor_instance(bytes(nonce, 24), bytes(key, 32))
    for (let left = number(offset); left > 0;) {
      const b = Buffer.alloc(Math.min(left, 65536))
      x.update(b, b)
      left -= b.length
    }
    const out = Buffer.alloc(number(length))
    if (out.length) x.update(out, out)
    x.final()
    return { bytes: hex(out) }
  },
  digest ({ held, index }) { return { digest: text(holding({ held }).digest(2 * number(index))) } },
  proof ({ length, held, index, digest, hash, earlier }) {
    const mine = holding({ length, held })
    const remote = treeIndex()
    for (const [block, said] of earlier || []) mine.proof(2 * number(block), { digest: number(said), tree: remote })
    const p = mine.proof(2 * number(index), { digest: number(digest || 0), hash: !!hash, tree: remote })
    return p ? { nodes: p.nodes.map(text), verifiedBy: text(p.verifiedBy) } : { nodes: null, verifiedBy: '0' }
  },
  'drive.index.decode' ({ number: entry, bytes: code }) {
    const index = appendTree.prototype._inflate(number(entry), bytes(code))
    return { index: index.map(level => level.map(text)) }
  },
  'drive.index.encode' ({ number: entry, index }) {
    return { bytes: hex(appendTree.prototype._deflate(number(entry), index.map(level => level.map(number)))) }
  }
}

// ---- discovery: the packets' packages know fields, and what Dat makes of them is as dns-discovery 6.2 has it

const PARTS = ['question', 'answer', 'authority', 'additional']
const LISTS = ['questions', 'answers', 'authorities', 'additionals']
const STRINGS = ['subscribe', 'token', 'host', 'port', 'peers', 'announce', 'unannounce']
const PORT = /^\d{1,5}$/

const peerOut = b => [...b.subarray(0, 4)].join('.') + ':' + b.readUInt16BE(4)
function peerIn (address) {
  const [host, port] = address.split(':')
  const b = Buffer.alloc(6)
  host.split('.').forEach((n, i) => { b[i] = Number(n) })
  b.writeUInt16BE(Number(port), 4)
  return b
}
function split (b, size) {
  const out = []
  for (let i = 0; i + size <= b.length; i += size) out.push(b.subarray(i, i + size))
  return out
}

const CLASSES = { IN: 1, CS: 2, CH: 3, HS: 4, ANY: 255 }
const TYPES = { A: 1, NS: 2, CNAME: 5, SOA: 6, NULL: 10, PTR: 12, HINFO: 13, MX: 15, TXT: 16, AAAA: 28, SRV: 33, OPT: 41, NSEC: 47, ANY: 255 }
const numberOf = (table, word) => String(table[word] || Number(/\d+$/.exec(word || '') || 0))

function itemOut (part, r) {
  const name = r.name === '.' ? '' : r.name
  const out = { part, name, type: numberOf(TYPES, r.type), class: String(Number(numberOf(CLASSES, r.class)) | (r.flush ? 0x8000 : 0)) }
  const feed = /^([0-9a-f]{40})\.dat\.local$/.exec(name)
  if (feed) out.feed = feed[1]
  if (part === 'question') return out
  out.ttl = String(r.ttl || 0)
  if (r.type === 'A') out.target = r.data
  if (r.type === 'SRV' && /^\d+(\.\d+){3}$/.test(r.data.target)) out.target = r.data.target + ':' + r.data.port
  if (r.type !== 'TXT' || !/(^|\.)dat\.local$/.test(name)) return out
  for (const s of [].concat(r.data)) {
    const at = s.indexOf(61)
    const key = (at < 0 ? s : s.subarray(0, at)).toString()
    const value = at < 0 ? Buffer.alloc(0) : s.subarray(at + 1)
    if (key === 'subscribe') out.subscribe = true
    else if (key === 'token' || key === 'host') out[key] = hex(value)
    else if (key === 'peers') out.peers = split(Buffer.from(value.toString(), 'base64'), 6).map(peerOut)
    else if (STRINGS.includes(key) && PORT.test(value.toString())) out[key] = String(Number(value.toString()))
  }
  return out
}

function itemIn (item) {
  const r = { name: item.name, type: Object.keys(TYPES).find(t => TYPES[t] === number(item.type)), class: 'IN', ttl: number(item.ttl || 0) }
  if (r.type === 'A') r.data = item.target
  if (r.type === 'SRV' && item.target) r.data = { port: number(item.target.split(':')[1]), target: item.target.split(':')[0] }
  if (r.type === 'TXT') {
    r.data = STRINGS.filter(key => key in item).map(key => {
      const value = item[key]
      const text = key === 'peers' ? Buffer.from(Buffer.concat(value.map(peerIn)).toString('base64')) : key === 'token' || key === 'host' ? bytes(value) : Buffer.from(String(value))
      return Buffer.concat([Buffer.from(key + '='), text])
    })
  }
  return r
}

if (dns) {
  ops['dns.decode'] = ({ bytes: packet }) => {
    const b = bytes(packet)
    const m = dns.decode(b)
    return { id: text(m.id), flags: text(b.readUInt16BE(2)), items: [].concat(...LISTS.map((list, i) => m[list].map(r => itemOut(PARTS[i], r)))) }
  }
  ops['dns.encode'] = ({ id, flags, items }) => {
    const m = { id: number(id), flags: number(flags) & 0x7fff, type: number(flags) & 0x8000 ? 'response' : 'query' }
    LISTS.forEach((list, i) => { m[list] = items.filter(item => item.part === PARTS[i]).map(itemIn) })
    return { bytes: hex(dns.encode(m)) }
  }
}

const DHT = { id: 'id', target: 'target', feed: 'info_hash', token: 'token' } // bytes
const DHT_NUMBERS = { port: 'port', impliedPort: 'implied_port' }

if (bencode) {
  ops['dht.decode'] = ({ bytes: packet }) => {
    const m = bencode.decode(bytes(packet))
    const kind = m.y && { q: 'query', r: 'answer', e: 'error' }[m.y.toString()]
    if (!kind || !Buffer.isBuffer(m.t) || (kind === 'query' && !Buffer.isBuffer(m.q))) throw new Error('no message')
    const out = { kind, transaction: hex(m.t) }
    const inner = (kind === 'query' ? m.a : m.r) || {}
    if (kind === 'query') out.query = m.q.toString()
    if (kind === 'error' && Array.isArray(m.e)) Object.assign(out, { code: text(m.e[0]), text: String(m.e[1]) })
    for (const [name, key] of Object.entries(DHT)) {
      if (Buffer.isBuffer(inner[key]) && (name === 'token' || inner[key].length === 20)) out[name] = hex(inner[key])
    }
    for (const [name, key] of Object.entries(DHT_NUMBERS)) if (inner[key] >= 0) out[name] = text(inner[key])
    if (Buffer.isBuffer(inner.nodes)) out.nodes = split(inner.nodes, 26).map(n => ({ id: hex(n.subarray(0, 20)), address: peerOut(n.subarray(20)) }))
    if (Array.isArray(inner.values)) out.peers = inner.values.filter(v => v.length === 6).map(peerOut)
    return out
  }
  ops['dht.encode'] = ({ kind, transaction, query, code, text: words, ...fields }) => {
    const inner = {}
    for (const [name, key] of Object.entries(DHT)) if (name in fields) inner[key] = bytes(fields[name])
    for (const [name, key] of Object.entries(DHT_NUMBERS)) if (name in fields) inner[key] = number(fields[name])
    if (fields.nodes) inner.nodes = Buffer.concat(fields.nodes.map(n => Buffer.concat([bytes(n.id), peerIn(n.address)])))
    if (fields.peers) inner.values = fields.peers.map(peerIn)
    const m = { t: bytes(transaction), y: kind === 'answer' ? 'r' : kind[0] }
    if (kind === 'query') Object.assign(m, { q: query, a: inner })
    else if (kind === 'answer') m.r = inner
    else m.e = [number(code), words]
    return { bytes: hex(bencode.encode(m)) }
  }
}

function holding ({ length, held }) {
  const t = treeIndex()
  if (length !== undefined) for (let i = 0; i < number(length); i++) t.set(2 * i)
  for (const [start, end] of held || []) for (let i = number(start); i < number(end); i++) t.set(i)
  return t
}

function answer (line) {
  try {
    const q = JSON.parse(line)
    if (!Object.prototype.hasOwnProperty.call(ops, q.op)) return { unsupported: true }
    return ops[q.op](q)
  } catch (err) {
    return { error: String(err && err.message) }
  }
}

readline.createInterface({ input: process.stdin, terminal: false }).on('line', line => {
  if (line.trim()) process.stdout.write(JSON.stringify(answer(line)) + '\n')
})
