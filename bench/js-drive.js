'use strict'
// usage: node js-drive.js import TREE STORE | share STORE | clone STORE PORT KEY     each with [--dat SECRETS]
//
// hyperdrive 9.16 with native sodium. Its files are its own in the folder STORE; with --dat those of dat-storage, as `dat`
// keeps them: the drive is then TREE itself (STORE is TREE), content stays in the files, secret keys are in SECRETS.
//
// import: TREE's files, in the order of their names, one after the other, each streamed, as the dat command does it.
// share: serves on a port of 127.0.0.1, which it prints, "READY PORT KEY", until the first connection ends.
// clone: ends when all metadata and all content is stored.
// Each prints one line of JSON at its end: wall, user and system seconds; of import from the opened drive on, of clone from
// the connect, of share from the connection: node's start and the closing of the files are not in it.
//
// DEPS: the folder that has node_modules, with hyperdrive, dat-storage and native sodium.
//
// SPDX-License-Identifier: MIT
const fs = require('fs')
const net = require('net')
const path = require('path')
const req = require('module').createRequire(path.resolve(process.env.DEPS) + '/')
const hyperdrive = req('hyperdrive')

if (req('sodium-universal') !== req('sodium-native')) throw new Error('hyperdrive does not take the native sodium')

const argv = process.argv.slice(2)
const at = argv.indexOf('--dat')
const secrets = at < 0 ? null : argv.splice(at, 2)[1]
const command = argv.shift()
const tree = command === 'import' ? argv.shift() : null
const [store, port, key] = argv

function open (key) {
  if (!secrets) return hyperdrive(store, key)
  return hyperdrive(req('dat-storage')(path.resolve(store), { secretDir: path.resolve(secrets) }), key, { latest: true, indexing: command !== 'clone' })
}
const archive = open(key ? Buffer.from(key, 'hex') : null)
archive.on('error', fail)
archive.ready({ import: importAll, share, clone }[command])

let start
let cpu
function begin () {
  start = process.hrtime.bigint()
  cpu = process.cpuUsage()
}
function end () {
  const wall = Number(process.hrtime.bigint() - start) / 1e9
  const used = process.cpuUsage(cpu)
  console.log(JSON.stringify({ wall, user: used.user / 1e6, sys: used.system / 1e6 }))
  // hypercore's last pages
  archive.metadata._sync(null, function () { archive.content._sync(null, () => process.exit(0)) })
}
function fail (err) {
  console.error(command + ':', err)
  process.exit(1)
}

function list (folder) {
  let found = []
  for (const entry of fs.readdirSync(path.join(tree, folder), { withFileTypes: true }).sort((a, b) => a.name < b.name ? -1 : 1)) {
    const name = folder + '/' + entry.name
    if (name === '/.dat') continue
    if (entry.isDirectory()) found = found.concat(list(name))
    else found.push(name)
  }
  return found
}

function importAll () {
  begin()
  const files = list('')
  let n = 0
  next()
  function next () {
    if (n === files.length) return end()
    const name = files[n++]
    fs.createReadStream(path.join(tree, name)).on('error', fail).pipe(archive.createWriteStream(name)).on('error', fail).on('finish', next)
  }
}

function share () {
  const server = net.createServer(function (socket) {
    begin()
    let over = false
    const stream = archive.replicate({ live: false, timeout: 120000 })
    const finish = function () { if (!over) { over = true; end() } }
    stream.on('error', () => {})
    socket.on('error', () => {}).on('close', finish)
    socket.pipe(stream).pipe(socket)
  })
  if (archive.content) listen()
  else archive.on('content', listen)
  function listen () {
    if (!server.listening) server.listen(0, '127.0.0.1', () => console.log('READY ' + server.address().port + ' ' + archive.key.toString('hex')))
  }
}

function clone () {
  begin()
  let left = 2
  const socket = net.connect(+port, '127.0.0.1')
  const stream = archive.replicate({ live: false, timeout: 120000 })
  stream.on('error', fail)
  socket.on('error', fail)
  socket.on('close', () => { if (left) fail(new Error('the connection ended early')) })
  socket.pipe(stream).pipe(socket)
  archive.metadata.once('sync', done)
  if (archive.content) archive.content.once('sync', done)
  else archive.once('content', () => archive.content.once('sync', done))
  function done () { if (!--left) end() }
}
