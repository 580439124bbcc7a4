#!/usr/bin/env node
'use strict'
// The deployed JavaScript implementation as a peer under test: hypercore 6.26 and, with --drive, hyperdrive 9.16 with
// dat-storage. It is js/peer.js, js/drive.js and js/codec.js with the command line of the suite.
//
//   hypercore.js serve|clone --key HEX [--key HEX ...] --store DIR (--port N | --listen) [--live] [--drive]
//   hypercore.js codec
//
// The packages are where DATSYNC_JS or DEPS says (a folder with node_modules), else in build/js: make interop.
const fs = require('fs')
const path = require('path')

const NOT_IMPLEMENTED = 89
if (process.env.DATSYNC_JS) process.env.DEPS = process.env.DATSYNC_JS

const words = process.argv.slice(2)
const command = words.shift()

function end (text, code) {
  console.error('hypercore.js: ' + text)
  process.exit(code)
}
// Become another of our programs
function run (name, args) {
  process.argv.splice(2, Infinity, ...args)
  require(path.join(__dirname, '..', 'js', name))
}

// share or clone DIR, as drive.js wants it
function driveWords () {
  const out = [command === 'serve' ? 'share' : 'clone']
  const rest = []
  const keys = []
  let store = null
  for (let i = 0; i < words.length; i++) {
    const a = words[i]
    if (a === '--drive') continue
    if (a === '--key') keys.push(words[++i])
    else if (a === '--store') store = words[++i]
    else if (a === '--port') rest.push(a, words[++i])
    else rest.push(a)
  }
  if (keys.length !== 1) end('one drive at a time', keys.length ? NOT_IMPLEMENTED : 1)
  if (!store) end('--store is missing', 1)
  if (command === 'serve') {
    const held = path.join(store, '.dat', 'metadata.key')
    if (!fs.existsSync(held) || fs.readFileSync(held).toString('hex') !== keys[0].toLowerCase()) end('no drive ' + keys[0] + ' in ' + store, 1)
    return out.concat(store, rest)
  }
  return out.concat(store, '--key', keys[0], rest)
}

if (command === 'codec' && !words.length) run('codec.js', [])
else if (command !== 'serve' && command !== 'clone') end('serve, clone or codec', NOT_IMPLEMENTED)
else if (words.includes('--drive')) run('drive.js', driveWords())
else run('peer.js', [command, ...words, ...(words.includes('--live') ? [] : ['--once'])])
