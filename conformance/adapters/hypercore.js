#!/usr/bin/env node
'use strict'
// The deployed JavaScript implementation as a peer under test: hypercore 6.26 and, with --drive, hyperdrive 9.16 with
// dat-storage. It is js/peer.js, js/drive.js and js/codec.js with the command line of the suite.
//
//   hypercore.js [--hypercore VERSION] serve|clone --key HEX [--key HEX ...] --store DIR (--port N | --listen) [--live] [--drive]
//   hypercore.js [--hypercore VERSION] codec
//
// The packages are where DATSYNC_JS or DEPS says (a folder with node_modules), else in build/js: make interop. VERSION
// (6.12.7, say) is sought there in a folder of this name with a node_modules of its own, as hypercore, as hypercore7, and
// as hypercore-VERSION in old/. One that is not there is not implemented (89), and so is a drive or the codec where there
// are none of that version.
const fs = require('fs')
const path = require('path')

const NOT_IMPLEMENTED = 89
if (process.env.DATSYNC_JS) process.env.DEPS = process.env.DATSYNC_JS

const words = process.argv.slice(2)
const version = words[0] === '--hypercore' ? words.splice(0, 2)[1] : null
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

// The version of this package there
function found (deps, name) {
  try {
    return JSON.parse(fs.readFileSync(path.join(deps, 'node_modules', name, 'package.json'))).version
  } catch (err) {
    return null
  }
}
// Where that version is; returns what peer.js must be told
function choose () {
  const root = path.resolve(process.env.DEPS || path.join(__dirname, '..', '..', 'build', 'js'))
  const own = [path.join(root, version), root].find(deps => found(deps, 'hypercore') === version)
  const other = found(root, 'hypercore7') === version || found(path.join(root, 'old'), 'hypercore-' + version) === version
  if (!own && !other) end('no hypercore ' + version + ' in ' + root, NOT_IMPLEMENTED)
  const need = command === 'codec' ? 'hypercore-crypto' : words.includes('--drive') ? 'hyperdrive' : null
  if (need && (!own || !found(own, need))) end('hypercore ' + version + ' comes without ' + need, NOT_IMPLEMENTED)
  if (own) process.env.DEPS = own
  return own ? [] : ['--hypercore', version]
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

const chosen = version === null ? [] : choose()
if (command === 'codec' && !words.length) run('codec.js', [])
else if (command !== 'serve' && command !== 'clone') end('serve, clone or codec', NOT_IMPLEMENTED)
else if (words.includes('--drive')) run('drive.js', driveWords())
else run('peer.js', [...chosen, command, ...words, ...(words.includes('--live') ? [] : ['--once'])])
