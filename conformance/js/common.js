'use strict'
// Shared by peer.js and record.js: where the JS packages are, and content that any language can make again.
//
// Content: block i of the feed with seed S and size n is the first n bytes of the ChaCha20 keystream (RFC 8439,
// counter from 0; libsodium: crypto_stream_chacha20_ietf) with
//   key   = S as 8 bytes, little endian, then 24 zero bytes
//   nonce = i as 8 bytes, little endian, then a purpose as 4 bytes, little endian
// Purposes: 0 the block's bytes. 1 its size, where sizes are a range MIN-MAX: MIN + (the keystream's first 4 bytes,
// little endian) mod (MAX - MIN + 1). 2 (with i = 0) the 32-byte seed of the feed's Ed25519 key pair.
// Check: seed 1, block 0, 8 bytes = c5d30a7ce1ec1193; its key pair seed begins with 192daf66, and the public key
// with f89eb567.
const crypto = require('crypto')
const fs = require('fs')
const path = require('path')

const deps = path.resolve(process.env.DEPS || path.join(__dirname, '..', '..', 'build', 'js'))
const load = require('module').createRequire(deps + path.sep)

// Those of other years (js/old/package.json) are in a folder of their own
const loadOld = require('module').createRequire(path.join(deps, 'old') + path.sep)
function hasOld (name) { return fs.existsSync(path.join(deps, 'old', 'node_modules', name, 'package.json')) }

function keystream (seed, index, purpose, size) {
  const key = Buffer.alloc(32)
  key.writeBigUInt64LE(BigInt(seed), 0)
  const iv = Buffer.alloc(16) // the counter, 4 bytes of 0, then the nonce
  iv.writeBigUInt64LE(BigInt(index), 4)
  iv.writeUInt32LE(purpose, 12)
  return crypto.createCipheriv('chacha20', key, iv).update(Buffer.alloc(size))
}

// "100" or "1-200"
function parseSize (text) {
  const m = /^(\d+)(?:-(\d+))?$/.exec(String(text))
  if (!m) throw new Error('a size is a number or MIN-MAX, not ' + text)
  const min = +m[1]
  const max = m[2] === undefined ? min : +m[2]
  if (max < min) throw new Error('a size range must ascend: ' + text)
  return { min, max }
}

function blockSize (seed, index, size) {
  if (size.min === size.max) return size.min
  return size.min + keystream(seed, index, 1, 4).readUInt32LE(0) % (size.max - size.min + 1)
}

function block (seed, index, size) {
  return keystream(seed, index, 0, blockSize(seed, index, size))
}

function keyPairSeed (seed) {
  return keystream(seed, 0, 2, 32)
}

// Is there a feed in this folder? Its key, or null.
function storedKey (dir) {
  try {
    const key = fs.readFileSync(path.join(dir, 'key'))
    return key.length === 32 ? key : null
  } catch (e) {
    return null
  }
}

// `told` is called when a peer has told what it has. The peer's `_first` is false from then on: hypercore has that and an
// event of its own from 6.12 on, older ones are given both.
function onTold (feed, told) {
  feed.on('remote-update', told)
  feed.on('peer-add', () => {
    for (const peer of feed.peers) {
      if ('_first' in peer) continue
      const onhave = peer.onhave
      peer._first = true
      peer.onhave = function (have) {
        this._first = false
        onhave.call(this, have)
        told()
      }
    }
  })
}

// Whether all of the first blocks are here. (Block by block: the counting of older versions is not right.)
function isWhole (feed, length) {
  let i = 0
  while (i < length && feed.bitfield.get(i)) i++
  return i === length
}

module.exports = { deps, load, loadOld, hasOld, keystream, parseSize, blockSize, block, keyPairSeed, storedKey, onTold, isWhole }
