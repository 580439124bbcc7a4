'use strict'
// Records vectors/ from the deployed JavaScript packages: node record.js [OUT]   (OUT: default ../../vectors)
// Every id, nonce and random choice comes from fixed seeds, so that a second run writes the same bytes.
// Replaces messages.json, rle.json, digest.json, bitfield.json, crypto.json, conversations/, sleep/, drives.json and drives/ in
// OUT, and leaves README.md and schema.json, which are written by hand, and drives/dat-13*, which dat itself wrote.
// env: DEPS as in common.js
const fs = require('fs')
const path = require('path')
const { load, deps, keystream } = require('./common')

// ---- randomness: replaced before any package asks for it

const random = {
  seed: 0,
  at: 0,
  start (seed) { random.seed = seed; random.at = 0 },
  bytes (n) { return keystream(random.seed, random.at++, 3, n) },
  below (n) { return Math.floor(Math.random() * n) }
}
load('sodium-universal').randombytes_buf = function (buffer) { random.bytes(buffer.length).copy(buffer) }
Math.random = () => random.bytes(4).readUInt32LE(0) / 4294967296

const versions = {}
for (const name of ['hypercore', 'hypercore7', 'hypercore-protocol', 'hypercore-crypto', 'bitfield-rle', 'flat-tree', 'sparse-bitfield', 'random-access-file', 'random-access-memory', 'hyperdrive', 'append-tree', 'dat-storage']) {
  versions[name === 'hypercore7' ? 'hypercore 7' : name] = JSON.parse(fs.readFileSync(path.join(deps, 'node_modules', name, 'package.json'))).version
}
function from (...names) { return Object.fromEntries(names.map(n => [n, versions[n]])) }

// ---- output: one line for each entry of a list

const out = path.resolve(process.argv[2] || path.join(__dirname, '..', '..', 'vectors'))

function write (name, object) {
  const file = path.join(out, name)
  fs.mkdirSync(path.dirname(file), { recursive: true })
  const parts = []
  for (const [key, value] of Object.entries(object)) {
    let text = JSON.stringify(value)
    if (Array.isArray(value) && value.length) text = '[\n  ' + value.map(v => JSON.stringify(v)).join(',\n  ') + '\n]'
    else if (value && typeof value === 'object' && text.length > 100) {
      text = '{\n  ' + Object.entries(value).map(([k, v]) => JSON.stringify(k) + ': ' + JSON.stringify(v)).join(',\n  ') + '\n}'
    }
    parts.push(JSON.stringify(key) + ': ' + text)
  }
  const text = '{\n' + parts.join(',\n') + '\n}\n'
  JSON.parse(text)
  fs.writeFileSync(file, text)
}

// [3,4,5,9] -> [[3,6],[9,10]]
function ranges (list) {
  const r = []
  for (const i of list) {
    if (r.length && r[r.length - 1][1] === i) r[r.length - 1][1]++
    else r.push([i, i + 1])
  }
  return r
}
// bytes -> [[hex, times], ...]: runs of 4 or more equal bytes apart, the rest as it is
function runs (bytes) {
  const r = []
  let literal = 0
  for (let i = 0; i < bytes.length;) {
    let end = i + 1
    while (end < bytes.length && bytes[end] === bytes[i]) end++
    if (end - i >= 4) {
      if (literal < i) r.push([bytes.toString('hex', literal, i), 1])
      r.push([bytes.toString('hex', i, i + 1), end - i])
      literal = end
    }
    i = end
  }
  if (literal < bytes.length) r.push([bytes.toString('hex', literal), 1])
  return r
}

async function main () {
  const tools = { random, from, write, ranges, runs, out }
  for (const name of ['messages.json', 'rle.json', 'digest.json', 'bitfield.json', 'crypto.json', 'conversations', 'sleep', 'drives.json']) {
    fs.rmSync(path.join(out, name), { recursive: true, force: true })
  }
  await require('./record-codecs')(tools)
  await require('./record-messages')(tools)
  await require('./record-sleep')(tools)
  await require('./record-conversations')(tools)
  await require('./record-drives')(tools)
  process.exit(0)
}
main().catch(err => { console.error(err); process.exit(1) })
