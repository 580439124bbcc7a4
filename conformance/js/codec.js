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
