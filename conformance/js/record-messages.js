'use strict'
// messages.json: every message, framed, and what the deployed stack does with the malformed ones.
const { load, keystream } = require('./common')
const protocol = load('hypercore-protocol')
const messages = load('hypercore-protocol/messages')
const hash = load('hypercore-crypto')

const TYPES = { Feed: 0, Handshake: 1, Info: 2, Have: 3, Unhave: 4, Want: 5, Unwant: 6, Request: 7, Cancel: 8, Data: 9, Extension: 15 }
const flags = {
  Edge: 'values at the ends of a varint length',
  Channel: 'another channel than 0',
  DefaultWritten: 'an optional field is written though it has its default value',
  OverlongVarint: 'a varint with needless bytes',
  UnknownField: 'a field that the message does not have',
  UnknownType: 'a message type that does not exist',
  RepeatedField: 'a field that may come once comes twice; where accepted, the last one counts',
  FieldOrder: 'fields not in ascending order',
  MissingField: 'a required field is absent',
  WrongSize: 'bytes of the wrong size for what they are',
  WrongWireType: 'a known field with another wire type',
  Overrun: 'an inner length goes beyond the frame',
  Truncated: 'the frame ends inside a field',
  TooLarge: 'beyond a limit',
  TooManyChannels: 'a channel number of 256 or more',
  Unsafe: 'an integer of 2^53 or more, which the deployed stack reads inexactly',
  Group: 'the group wire types, which the protocol does not use',
  Incomplete: 'the rest of the frame has not come yet: nothing to deliver and nothing wrong so far',
  Padded: 'zeros zero bytes follow hex',
  ShortFrame: 'a frame of no or one byte',
  Utf8: 'text that is not UTF-8'
}
const js = {
  message: 'delivered; value is what was delivered, if it differs from fields with absent ones at their defaults',
  ignored: 'nothing delivered, the conversation goes on',
  closed: 'the connection is ended',
  crash: 'an exception that nobody catches: the process ends',
  waits: 'more bytes are waited for'
}
const defaults = {
  Feed: { nonce: null },
  Handshake: { id: null, live: false, userData: null, extensions: [], ack: false },
  Info: { uploading: false, downloading: false },
  Have: { length: 1, bitfield: null, ack: false },
  Unhave: { length: 1 },
  Want: { length: 0 },
  Unwant: { length: 0 },
  Request: { bytes: 0, hash: false, nodes: 0 },
  Cancel: { bytes: 0, hash: false },
  Data: { value: null, nodes: [], signature: null }
}

const key = Buffer.alloc(32, 7)
const discoveryKey = hash.discoveryKey(key)

// ---- bytes

function varint (n) {
  n = BigInt(n)
  const b = []
  while (n >= 128n) { b.push(Number(n & 127n) | 128); n >>= 7n }
  b.push(Number(n))
  return Buffer.from(b)
}
// the same number in size bytes
function overlong (n, size) {
  const b = [...varint(n)]
  while (b.length < size) { b[b.length - 1] |= 128; b.push(0) }
  return Buffer.from(b)
}
const cat = (...parts) => Buffer.concat(parts.map(p => typeof p === 'string' ? Buffer.from(p, 'hex') : p))
const int = (field, n) => cat(varint(field << 3), varint(n))
const bytes = (field, b) => cat(varint(field << 3 | 2), varint(b.length), b)
const framed = payload => cat(varint(payload.length), payload)
const message = (channel, type, body) => framed(cat(varint(channel << 4 | type), body))

function plain (value) {
  if (value === null || value === undefined) return null
  if (Buffer.isBuffer(value)) return value.toString('hex')
  if (Array.isArray(value)) return value.map(plain)
  if (typeof value === 'bigint') return value > BigInt(Number.MAX_SAFE_INTEGER) ? String(value) : Number(value)
  if (typeof value === 'object') return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, plain(v)]))
  return value
}

// ---- what the deployed stack does

function run (entry, input) {
  const isFeed = entry.type === 'Feed' && entry.channel === 0
  const stream = protocol({ encrypt: false, timeout: 0, extensions: ['a', 'b'] })
  let got = null
  let probe = false
  let closed = false
  const take = (type, value) => {
    if (type === 'Have' && value.start === 987654 && value.length === 321) probe = true
    else if (!got) got = { type, value: plain(value) }
  }
  const peer = { ontick () {}, onclose () {}, onextension (name, payload) { take('Extension', { name, payload }) } }
  for (const [name, type] of Object.entries(TYPES)) if (type > 1 && type < 15) peer['on' + name.toLowerCase()] = m => take(name, m)
  stream.on('error', () => { closed = true })
  stream.on('close', () => { closed = true })
  stream.feed(key, { peer })
  const feed = messages.Feed.encode({ discoveryKey })
  let opened = 0
  stream.on('feed', () => { opened++ })
  try {
    if (isFeed) {
      stream.on('feed', () => take('Feed', null))
    } else {
      stream.write(message(0, 0, feed))
      if (entry.channel > 0 && entry.channel < 256 && entry.type !== 'Feed') {
        stream.feed(Buffer.alloc(32, 8), { peer })
        stream.write(message(entry.channel, 0, messages.Feed.encode({ discoveryKey: hash.discoveryKey(Buffer.alloc(32, 8)) })))
      }
      if (entry.type === 'Extension') stream.write(message(0, 1, messages.Handshake.encode({ extensions: ['a', 'b'] })))
      else stream.on('handshake', () => take('Handshake', null))
    }
    const before = opened
    // a copy: the stream keeps what it is given
    for (let at = 0; at < input.length; at += 65536) stream.write(Buffer.from(input.subarray(at, at + 65536)))
    if (entry.type === 'Feed' && !isFeed && opened > before) take('Feed', null)
    if (isFeed) probe = true
    else if (entry.type === 'incomplete') probe = false
    else stream.write(message(0, 3, messages.Have.encode({ start: 987654, length: 321 })))
  } catch (err) {
    return { does: 'crash' }
  }
  if (closed) return { does: 'closed' }
  if (got) {
    const type = got.type
    if (type === 'Feed' || type === 'Handshake') {
      // these are not handed out whole: decode the frame as the stream does
      const frame = input.subarray(varintSize(input))
      try { got.value = plain(messages[type].decode(frame, varintSize(frame), frame.length)) } catch (err) {}
    }
    return { does: 'message', type, value: got.value }
  }
  return { does: probe ? 'ignored' : 'waits' }
}
function varintSize (b) { let n = 1; while (b[n - 1] & 128) n++; return n }

module.exports = function ({ random, from, write }) {
  random.start(15)
  const entries = []

  function add (e, input) {
    const r = run(e, input)
    e.js = r.does
    if (r.does === 'message') {
      const expected = e.fields && e.type && e.type !== 'Extension' ? Object.assign({}, defaults[e.type], e.fields) : null
      const same = expected && Object.keys(r.value).every(k => JSON.stringify(r.value[k]) === JSON.stringify(expected[k]))
      if (!same) { e.jsValue = r.value; if (e.result === 'valid' && e.type !== 'Extension') throw new Error(e.id + ' is not read back: ' + JSON.stringify([r.value, expected])) }
    } else if (e.result === 'valid' && !(e.type === 'keep-alive' && r.does === 'ignored') && !(e.type === 'incomplete' && r.does === 'waits')) throw new Error(e.id + ': ' + r.does)
    if (entries.some(x => x.id === e.id)) throw new Error('twice: ' + e.id)
    entries.push(e)
  }
  // encoded by the deployed encoder
  let channel = 0
  function good (type, id, meaning, fields, more = []) {
    const hex = message(channel, TYPES[type], messages[type].encode(fields))
    add({ id: type.toLowerCase() + '/' + id, meaning, result: 'valid', flags: more, type, channel, fields: plain(fields), hex: hex.toString('hex') }, hex)
  }
  // written by hand; body without frame
  function hand (type, id, meaning, result, more, body, fields, ch = 0) {
    const hex = message(ch, TYPES[type], cat(body))
    const e = { id: type.toLowerCase() + '/' + id, meaning, result, flags: more, type, channel: ch }
    if (fields) e.fields = plain(fields)
    e.hex = hex.toString('hex')
    add(e, hex)
  }
  function raw (id, meaning, result, more, input, type = null, fields = null, ch = 0) {
    const e = { id, meaning, result, flags: more, type, channel: ch }
    if (fields) e.fields = plain(fields)
    e.hex = input.toString('hex')
    add(e, input)
  }

  // ---- every optional field absent and present, in every combination

  const nonce = keystream(15, 1, 0, 24)
  const id = keystream(15, 2, 0, 32)
  const sig = keystream(15, 3, 0, 64)
  const node = (i, size = 10) => ({ index: i, hash: keystream(15, 100 + i, 0, 32), size })
  const optional = {
    Feed: [{ discoveryKey }, { nonce }],
    Handshake: [{}, { id }, { live: true }, { userData: Buffer.from('user data') }, { extensions: ['one', 'two'] }, { ack: true }],
    Info: [{}, { uploading: true }, { downloading: true }],
    Have: [{ start: 5 }, { length: 3 }, { bitfield: Buffer.from('02f8', 'hex') }, { ack: true }],
    Unhave: [{ start: 5 }, { length: 3 }],
    Want: [{ start: 8192 }, { length: 1048576 }],
    Unwant: [{ start: 8192 }, { length: 1048576 }],
    Request: [{ index: 5 }, { bytes: 100 }, { hash: true }, { nodes: 11 }],
    Cancel: [{ index: 5 }, { bytes: 100 }, { hash: true }],
    Data: [{ index: 5 }, { value: Buffer.from('hello') }, { nodes: [node(3), node(12, 70000)] }, { signature: sig }]
  }
  for (const [type, [required, ...rest]] of Object.entries(optional)) {
    for (let mask = 0; mask < 1 << rest.length; mask++) {
      const fields = Object.assign({}, required)
      const names = []
      rest.forEach((f, k) => { if (mask >> k & 1) { Object.assign(fields, f); names.push(Object.keys(f)[0]) } })
      if (!Object.keys(fields).length) continue // an empty body: see frame/header-only
      good(type, 'with' + (names.length ? '-' + names.join('-') : '-required-only'), names.length ? 'with ' + names.join(', ') : 'required fields only', fields)
    }
  }
  good('Info', 'false-false', 'both false, written out: done, and never downloading', { uploading: false, downloading: false }, ['DefaultWritten'])
  good('Info', 'true-false', 'a downloader that is done', { uploading: true, downloading: false }, ['DefaultWritten'])
  good('Handshake', 'false', 'the flags written as false', { id, live: false, ack: false }, ['DefaultWritten'])
  good('Handshake', 'extensions-0', 'an empty name among extensions', { extensions: ['', 'x'] })
  good('Handshake', 'extensions-utf8', 'a name in UTF-8', { extensions: ['naïve-ö-€-𐍈'] })
  good('Handshake', 'extensions-many', 'forty names, in order', { extensions: Array.from({ length: 40 }, (_, i) => 'ext-' + String(i).padStart(2, '0')) })
  good('Handshake', 'user-data-empty', 'user data of no bytes', { userData: Buffer.alloc(0) })
  good('Have', 'bitfield-empty', 'an empty bitfield: none of these blocks', { start: 0, length: 1048576, bitfield: Buffer.alloc(0) })
  good('Have', 'range', 'the answer to a Want', { start: 0, length: 1048576, bitfield: Buffer.from('2302c0', 'hex') })
  good('Have', 'not-ack', 'ack written as false', { start: 7, ack: false }, ['DefaultWritten'])
  good('Request', 'as-sent', 'as the deployed stack writes it', { index: 4, bytes: 0, hash: false, nodes: 0 }, ['DefaultWritten'])
  good('Request', 'nodes-wide', 'a digest of 40 bits', { index: 4, bytes: 0, hash: false, nodes: 0xabcdef0123 })
  good('Data', 'value-empty', 'a block of no bytes, which is not the same as no value', { index: 0, value: Buffer.alloc(0), nodes: [], signature: sig })
  good('Data', 'value-1000', 'a longer block', { index: 0, value: keystream(15, 4, 0, 1000), nodes: [node(2)], signature: sig })
  good('Data', 'nodes-32', 'a long proof', { index: 9, value: Buffer.from('x'), nodes: Array.from({ length: 32 }, (_, i) => node(i * 3 + 1, i)), signature: sig })
  good('Data', 'node-edge', 'a node with large numbers', { index: 9, nodes: [{ index: Number.MAX_SAFE_INTEGER, hash: id, size: Number.MAX_SAFE_INTEGER }] }, ['Edge'])

  // ---- integers at the edges, in every field that has them

  const edges = [['0', 0], ['1', 1], ['127', 127], ['128', 128], ['16383', 16383], ['16384', 16384], ['2p28-1', 2 ** 28 - 1], ['2p28', 2 ** 28], ['2p31', 2 ** 31], ['2p32-1', 2 ** 32 - 1], ['2p32', 2 ** 32], ['2p35', 2 ** 35], ['2p53-1', 2 ** 53 - 1]]
  const integers = { Have: ['start', 'length'], Unhave: ['start', 'length'], Want: ['start', 'length'], Unwant: ['start', 'length'], Request: ['index', 'bytes', 'nodes'], Cancel: ['index', 'bytes'], Data: ['index'] }
  for (const [type, names] of Object.entries(integers)) {
    for (const name of names) {
      for (const [label, n] of edges) {
        const fields = name === names[0] ? {} : { [names[0]]: 1 }
        fields[name] = n
        good(type, name + '-' + label, name + ' = ' + label.replace('p', '^'), fields, ['Edge'])
      }
    }
  }

  // ---- channels

  for (channel of [1, 7, 8, 127, 128, 255]) {
    good('Have', 'channel-' + channel, 'on channel ' + channel, { start: 5 }, ['Channel'])
    good('Feed', 'channel-' + channel, 'opens channel ' + channel, { discoveryKey: keystream(15, 5, 0, 32) }, ['Channel'])
  }
  channel = 0
  hand('Have', 'channel-256', 'on channel 256', 'invalid', ['TooManyChannels'], int(1, 5), { start: 5 }, 256)
  hand('Feed', 'channel-256', 'opens channel 256', 'invalid', ['TooManyChannels'], bytes(1, discoveryKey), { discoveryKey }, 256)
  raw('have/never-opened', 'on a channel that was never opened: well formed, but not in its place', 'invalid', [], message(3, 3, int(1, 5)), null, null, 0)

  // ---- frames

  raw('frame/keep-alive', 'an empty frame', 'valid', ['ShortFrame'], cat('00'), 'keep-alive', {})
  raw('frame/keep-alive-overlong', 'an empty frame, its length in two bytes', 'acceptable', ['ShortFrame', 'OverlongVarint'], cat('8000'), 'keep-alive', {})
  for (const [name, t] of Object.entries(TYPES)) if (name !== 'Extension') raw('frame/header-only-' + name.toLowerCase(), 'a header and no body', 'acceptable', ['ShortFrame'], framed(varint(t)))
  raw('frame/header-only-extension', 'a header and no body', 'invalid', ['ShortFrame'], framed(varint(15)))
  for (const t of [10, 11, 12, 13, 14]) raw('frame/type-' + t, 'message type ' + t + ': not to be delivered, not to end the conversation', 'acceptable', ['UnknownType'], message(0, t, int(1, 5)))
  const have = cat(varint(3), int(1, 5))
  raw('frame/length-overlong', 'the length in three bytes', 'acceptable', ['OverlongVarint'], cat(overlong(have.length, 3), have), 'Have', { start: 5 })
  raw('frame/length-overlong-4', 'the length in four bytes', 'acceptable', ['OverlongVarint'], cat(overlong(have.length, 4), have), 'Have', { start: 5 })
  raw('frame/length-overlong-5', 'the length in five bytes', 'invalid', ['OverlongVarint', 'TooLarge'], cat(overlong(have.length, 5), have))
  raw('frame/length-8388609', 'one byte more than a frame may have', 'invalid', ['TooLarge'], varint(8388609))
  raw('frame/length-2p28-1', 'the largest number of four bytes', 'invalid', ['TooLarge'], varint(2 ** 28 - 1))
  raw('frame/length-2p32', 'a length of five bytes', 'invalid', ['TooLarge'], varint(2 ** 32))
  raw('frame/header-overlong', 'the header in three bytes', 'acceptable', ['OverlongVarint'], framed(cat(overlong(3, 3), int(1, 5))), 'Have', { start: 5 })
  raw('frame/header-2p32', 'a header of 2^32 + 3: beyond every channel', 'invalid', ['TooManyChannels'], framed(cat(varint(2 ** 32 + 3), int(1, 5))))
  raw('frame/header-truncated', 'the frame ends inside the header', 'invalid', ['Truncated'], framed(cat('8080')))
  raw('frame/header-11', 'a header of eleven bytes', 'invalid', ['OverlongVarint'], framed(cat(overlong(3, 11), int(1, 5))))
  raw('frame/incomplete-length', 'the first byte of a length', 'valid', ['Incomplete'], cat('80'), 'incomplete', {})
  raw('frame/incomplete-header', 'a length and nothing more', 'valid', ['Incomplete'], cat('03'), 'incomplete', {})
  raw('frame/incomplete-body', 'a frame of which the last byte has not come yet', 'valid', ['Incomplete'], framed(have).subarray(0, have.length), 'incomplete', {})
  {
    // the largest frame: Data on channel 0, value all zeros
    const size = 8388608 - 1 - 2 - 1 - 4
    const prefix = cat(varint(8388608), varint(9), int(1, 0), varint(2 << 3 | 2), varint(size))
    const e = { id: 'frame/length-8388608', meaning: 'the largest frame: Data with a value of ' + size + ' zeros', result: 'valid', flags: ['Padded'], type: 'Data', channel: 0, fields: { index: 0, value: '00'.repeat(size) }, hex: prefix.toString('hex'), zeros: size }
    add(e, Buffer.concat([prefix, Buffer.alloc(size)]))
    delete e.fields // told by meaning
  }

  // ---- fields

  hand('Have', 'start-missing', 'no start', 'invalid', ['MissingField'], int(2, 5))
  hand('Unhave', 'start-missing', 'no start', 'invalid', ['MissingField'], int(2, 5))
  hand('Want', 'start-missing', 'no start', 'invalid', ['MissingField'], int(2, 8192))
  hand('Unwant', 'start-missing', 'no start', 'invalid', ['MissingField'], int(2, 8192))
  hand('Request', 'index-missing', 'no index', 'invalid', ['MissingField'], int(4, 1))
  hand('Cancel', 'index-missing', 'no index', 'invalid', ['MissingField'], int(2, 1))
  hand('Data', 'index-missing', 'no index', 'invalid', ['MissingField'], bytes(2, Buffer.from('hello')))
  hand('Feed', 'key-missing', 'no discovery key', 'invalid', ['MissingField'], bytes(2, nonce))
  const nodeBody = (...parts) => cat(int(1, 0), bytes(3, cat(...parts)))
  hand('Data', 'node-index-missing', 'a node without index', 'invalid', ['MissingField'], nodeBody(bytes(2, id), int(3, 10)))
  hand('Data', 'node-hash-missing', 'a node without hash', 'invalid', ['MissingField'], nodeBody(int(1, 2), int(3, 10)))
  hand('Data', 'node-size-missing', 'a node without size', 'invalid', ['MissingField'], nodeBody(int(1, 2), bytes(2, id)))
  hand('Data', 'node-empty', 'a node of no bytes', 'invalid', ['MissingField'], nodeBody())

  for (const n of [0, 31, 33]) hand('Feed', 'key-' + n, 'a discovery key of ' + n + ' bytes', 'invalid', ['WrongSize'], cat(bytes(1, Buffer.alloc(n, 1)), bytes(2, nonce)))
  for (const n of [0, 23, 25, 32]) hand('Feed', 'nonce-' + n, 'a nonce of ' + n + ' bytes', 'invalid', ['WrongSize'], cat(bytes(1, discoveryKey), bytes(2, Buffer.alloc(n, 1))))
  for (const n of [0, 31, 33]) hand('Data', 'node-hash-' + n, 'a node with a hash of ' + n + ' bytes', 'invalid', ['WrongSize'], nodeBody(int(1, 2), bytes(2, Buffer.alloc(n, 1)), int(3, 10)))
  for (const n of [0, 63, 65]) hand('Data', 'signature-' + n, 'a signature of ' + n + ' bytes', 'invalid', ['WrongSize'], cat(int(1, 0), bytes(2, Buffer.from('hello')), bytes(4, Buffer.alloc(n, 1))))
  for (const n of [0, 1, 31, 33, 64]) hand('Handshake', 'id-' + n, 'an id of ' + n + ' bytes', 'acceptable', ['WrongSize'], bytes(1, Buffer.alloc(n, 1)), { id: Buffer.alloc(n, 1) })

  hand('Have', 'order', 'length before start', 'valid', ['FieldOrder'], cat(int(2, 3), int(1, 5)), { start: 5, length: 3 })
  hand('Data', 'order', 'the signature first, the index last', 'valid', ['FieldOrder'], cat(bytes(4, sig), bytes(2, Buffer.from('hello')), int(1, 5)), { index: 5, value: Buffer.from('hello'), signature: sig })
  hand('Data', 'nodes-apart', 'nodes with another field between them', 'valid', ['FieldOrder'], cat(int(1, 5), bytes(3, cat(int(1, 2), bytes(2, id), int(3, 10))), bytes(2, Buffer.from('hello')), bytes(3, cat(int(1, 9), bytes(2, id), int(3, 11)))), { index: 5, nodes: [{ index: 2, hash: id, size: 10 }, { index: 9, hash: id, size: 11 }], value: Buffer.from('hello') })
  hand('Have', 'repeated', 'start twice', 'acceptable', ['RepeatedField'], cat(int(1, 4), int(1, 5)), { start: 5 })
  hand('Data', 'repeated-value', 'value twice', 'acceptable', ['RepeatedField'], cat(int(1, 5), bytes(2, Buffer.from('first')), bytes(2, Buffer.from('second'))), { index: 5, value: Buffer.from('second') })
  hand('Feed', 'repeated', 'the discovery key twice', 'acceptable', ['RepeatedField'], cat(bytes(1, id), bytes(1, discoveryKey), bytes(2, nonce)), { discoveryKey, nonce })

  hand('Have', 'unknown-varint', 'field 9, a varint', 'valid', ['UnknownField'], cat(int(1, 5), int(9, 2 ** 40)), { start: 5 })
  hand('Have', 'unknown-fixed64', 'field 9, eight bytes', 'valid', ['UnknownField'], cat(varint(9 << 3 | 1), '0102030405060708', int(1, 5)), { start: 5 })
  hand('Have', 'unknown-bytes', 'field 9, bytes', 'valid', ['UnknownField'], cat(bytes(9, Buffer.from('hello')), int(1, 5)), { start: 5 })
  hand('Have', 'unknown-fixed32', 'field 9, four bytes', 'valid', ['UnknownField'], cat(int(1, 5), varint(9 << 3 | 5), '01020304'), { start: 5 })
  hand('Have', 'unknown-field-1000', 'field 1000, a varint', 'valid', ['UnknownField'], cat(int(1, 5), int(1000, 1)), { start: 5 })
  hand('Have', 'unknown-field-2p29-1', 'the largest field number', 'acceptable', ['UnknownField'], cat(int(1, 5), varint(BigInt(2 ** 29 - 1) << 3n), varint(1)), { start: 5 })
  hand('Handshake', 'unknown-field', 'field 6, bytes', 'valid', ['UnknownField'], cat(bytes(1, id), bytes(6, Buffer.from('later'))), { id })
  hand('Feed', 'unknown-field', 'field 3, a varint', 'valid', ['UnknownField'], cat(bytes(1, discoveryKey), bytes(2, nonce), int(3, 1)), { discoveryKey, nonce })
  hand('Data', 'node-unknown-field', 'a node with a field 4', 'valid', ['UnknownField'], nodeBody(int(1, 2), bytes(2, id), int(3, 10), int(4, 1)), { index: 0, nodes: [{ index: 2, hash: id, size: 10 }] })
  hand('Have', 'unknown-varint-truncated', 'field 9, a varint that ends too early', 'invalid', ['UnknownField', 'Truncated'], cat(int(1, 5), varint(9 << 3), '80'))
  hand('Have', 'unknown-fixed64-truncated', 'field 9, five of eight bytes', 'invalid', ['UnknownField', 'Truncated'], cat(int(1, 5), varint(9 << 3 | 1), '0102030405'))
  hand('Have', 'unknown-fixed32-truncated', 'field 9, three of four bytes', 'invalid', ['UnknownField', 'Truncated'], cat(int(1, 5), varint(9 << 3 | 5), '010203'))
  hand('Have', 'unknown-bytes-overrun', 'field 9, bytes that go beyond the frame', 'invalid', ['UnknownField', 'Overrun'], cat(int(1, 5), varint(9 << 3 | 2), varint(6), Buffer.from('hello')))
  hand('Have', 'unknown-bytes-overrun-2p63', 'field 9, 2^63 bytes', 'invalid', ['UnknownField', 'Overrun'], cat(int(1, 5), varint(9 << 3 | 2), varint(2n ** 63n)))
  hand('Have', 'field-0', 'field number 0', 'invalid', ['UnknownField'], cat(int(1, 5), int(0, 1)))
  hand('Have', 'group', 'a group', 'invalid', ['Group'], cat(int(1, 5), varint(9 << 3 | 3), varint(9 << 3 | 4)))
  hand('Have', 'group-end', 'the end of a group that was not begun', 'invalid', ['Group'], cat(int(1, 5), varint(9 << 3 | 4)))
  hand('Have', 'wire-type-6', 'wire type 6', 'invalid', ['WrongWireType'], cat(int(1, 5), varint(9 << 3 | 6)))
  hand('Have', 'wire-type-7', 'wire type 7', 'invalid', ['WrongWireType'], cat(int(1, 5), varint(9 << 3 | 7)))

  hand('Have', 'start-as-bytes', 'start with the wire type of bytes', 'invalid', ['WrongWireType'], bytes(1, Buffer.from([5])))
  hand('Have', 'start-as-fixed64', 'start as eight bytes', 'invalid', ['WrongWireType'], cat(varint(1 << 3 | 1), '0500000000000000'))
  hand('Have', 'bitfield-as-varint', 'bitfield as a varint', 'invalid', ['WrongWireType'], cat(int(1, 5), int(3, 1)))
  hand('Feed', 'key-as-varint', 'the discovery key as a varint', 'invalid', ['WrongWireType'], int(1, 5))
  hand('Data', 'value-as-varint', 'value as a varint', 'invalid', ['WrongWireType'], cat(int(1, 5), int(2, 0)))

  hand('Have', 'start-overlong', 'start in three bytes', 'acceptable', ['OverlongVarint'], cat('08', overlong(5, 3)), { start: 5 })
  hand('Have', 'start-overlong-10', 'start in ten bytes', 'acceptable', ['OverlongVarint'], cat('08', overlong(5, 10)), { start: 5 })
  hand('Have', 'start-overlong-11', 'start in eleven bytes', 'invalid', ['OverlongVarint'], cat('08', overlong(5, 11)))
  hand('Have', 'tag-overlong', 'a tag in two bytes', 'acceptable', ['OverlongVarint'], cat(overlong(8, 2), varint(5)), { start: 5 })
  hand('Have', 'bitfield-length-overlong', 'the length of bitfield in two bytes', 'acceptable', ['OverlongVarint'], cat(int(1, 5), '1a', overlong(2, 2), '02f8'), { start: 5, bitfield: Buffer.from('02f8', 'hex') })
  hand('Have', 'start-2p53', 'start = 2^53', 'acceptable', ['Unsafe'], int(1, 2n ** 53n), { start: 2n ** 53n })
  hand('Have', 'start-2p53+1', 'start = 2^53 + 1', 'acceptable', ['Unsafe'], int(1, 2n ** 53n + 1n), { start: 2n ** 53n + 1n })
  hand('Have', 'start-2p63', 'start = 2^63', 'acceptable', ['Unsafe'], int(1, 2n ** 63n), { start: 2n ** 63n })
  hand('Have', 'start-2p64-1', 'start = 2^64 - 1', 'acceptable', ['Unsafe'], int(1, 2n ** 64n - 1n), { start: 2n ** 64n - 1n })
  hand('Have', 'start-2p64', 'start = 2^64: more than 64 bits', 'invalid', ['TooLarge'], int(1, 2n ** 64n))
  hand('Request', 'nodes-2p64-1', 'a digest of 64 ones', 'acceptable', ['Unsafe'], cat(int(1, 4), int(4, 2n ** 64n - 1n)), { index: 4, nodes: 2n ** 64n - 1n })
  hand('Info', 'bool-2', 'a bool of 2', 'acceptable', ['OverlongVarint'], cat('0802', '1001'), { uploading: true, downloading: true })
  hand('Info', 'bool-overlong', 'a bool of two bytes', 'acceptable', ['OverlongVarint'], cat('08', overlong(1, 2), '1001'), { uploading: true, downloading: true })
  hand('Info', 'bool-truncated', 'a bool without its byte', 'invalid', ['Truncated'], cat('0801', '10'))

  hand('Have', 'start-truncated', 'start ends too early', 'invalid', ['Truncated'], cat('08', '80'))
  hand('Have', 'start-absent', 'the tag of start and nothing more', 'invalid', ['Truncated'], cat('08'))
  hand('Have', 'tag-truncated', 'a tag ends too early', 'invalid', ['Truncated'], cat(int(1, 5), '80'))
  hand('Have', 'bitfield-overrun', 'bitfield goes beyond the frame', 'invalid', ['Overrun'], cat(int(1, 5), '1a', varint(3), '02f8'))
  hand('Data', 'value-overrun', 'value goes beyond the frame', 'invalid', ['Overrun'], cat(int(1, 5), '12', varint(6), Buffer.from('hello')))
  hand('Data', 'value-overrun-2p32', 'a value of 2^32 bytes', 'invalid', ['Overrun'], cat(int(1, 5), '12', varint(2 ** 32), Buffer.from('hello')))
  hand('Data', 'value-overrun-2p63', 'a value of 2^63 bytes', 'invalid', ['Overrun'], cat(int(1, 5), '12', varint(2n ** 63n), Buffer.from('hello')))
  hand('Data', 'value-overrun-2p64-1', 'a value of 2^64 - 1 bytes', 'invalid', ['Overrun'], cat(int(1, 5), '12', varint(2n ** 64n - 1n), Buffer.from('hello')))
  hand('Data', 'node-overrun', 'a node goes beyond the frame', 'invalid', ['Overrun'], cat(int(1, 5), '1a', varint(60), int(1, 2), bytes(2, id), int(3, 10)))
  hand('Data', 'node-inner-overrun', 'a hash goes beyond its node, not beyond the frame', 'invalid', ['Overrun'], cat(int(1, 5), bytes(3, cat(int(1, 2), int(3, 10), '12', varint(32), id.subarray(0, 20))), bytes(2, Buffer.from('twelve bytes'))))
  hand('Feed', 'key-overrun', 'the discovery key goes beyond the frame', 'invalid', ['Overrun'], cat('0a', varint(32), discoveryKey.subarray(0, 31)))
  hand('Handshake', 'extension-overrun', 'a name goes beyond the frame', 'invalid', ['Overrun'], cat(bytes(1, id), '22', varint(9), Buffer.from('name')))
  hand('Handshake', 'extension-not-utf8', 'a name that is not UTF-8', 'acceptable', ['Utf8'], cat(bytes(1, id), bytes(4, Buffer.from('fffe41', 'hex'))), { id })

  // ---- extensions: the number is an index into the sender's Handshake.extensions, here ["a", "b"]

  const extension = (id, meaning, result, more, body, fields) => hand('Extension', id, meaning, result, more, body, fields)
  extension('first', 'the first name, with a payload', 'valid', [], cat(varint(0), Buffer.from('payload')), { id: 0, payload: Buffer.from('payload') })
  extension('second', 'the second name', 'valid', [], cat(varint(1), Buffer.from('payload')), { id: 1, payload: Buffer.from('payload') })
  extension('empty', 'no payload', 'valid', [], varint(1), { id: 1, payload: Buffer.alloc(0) })
  extension('unknown', 'a number beyond the names', 'acceptable', [], cat(varint(2), Buffer.from('payload')), { id: 2, payload: Buffer.from('payload') })
  extension('large', 'number 2^32', 'acceptable', ['Edge'], cat(varint(2 ** 32), Buffer.from('payload')), { id: 2 ** 32, payload: Buffer.from('payload') })
  extension('truncated', 'the number ends too early', 'invalid', ['Truncated'], cat('80'))

  write('messages.json', {
    format: 'datsync-vectors/1',
    kind: 'messages',
    about:
      'Single frames, in the clear: length, header (channel << 4 | type), body. hex is the whole frame, and zeros, where ' +
      'given, counts zero bytes that follow it. result: valid must be read as type, channel and fields (types in lower ' +
      'case are no messages: keep-alive, incomplete); invalid must not be delivered as a message; acceptable may be read ' +
      'so, or not. fields has the fields that are on the wire: bytes as hex, integers of 2^53 and more as decimal text. ' +
      'Entries without a malformation were written by the deployed encoder, the others by hand. js is what the deployed ' +
      'stack did with the frame, after it had opened the channel.',
    recordedFrom: from('hypercore-protocol'),
    flags,
    js,
    defaults,
    entries
  })
}
