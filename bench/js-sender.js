'use strict'
// usage: node js-sender.js FEED [--peers K]
//
// Serves the feed in a folder with hypercore 6 on a port of 127.0.0.1, which it prints: "READY PORT". When K connections
// (1) have closed it prints one line of JSON, user and system seconds since the first connection, and ends.
// DEPS: the folder that has node_modules, with hypercore and its native sodium.
//
// SPDX-License-Identifier: MIT
const net = require('net')
const path = require('path')
const req = require('module').createRequire(path.resolve(process.env.DEPS) + '/')
const hypercore = req('hypercore')

const argv = process.argv.slice(2)
const at = argv.indexOf('--peers')
const peers = at < 0 ? 1 : Number(argv.splice(at, 2)[1])

if (req('sodium-universal') !== req('sodium-native')) throw new Error('hypercore does not take the native sodium')

const feed = hypercore(argv[0])
let cpu = null
let closed = 0

feed.on('error', function (err) { console.error('sender:', err); process.exit(1) })
feed.ready(function () {
  const server = net.createServer(function (socket) {
    if (cpu === null) cpu = process.cpuUsage()
    // Sixteen receivers on one core may leave a connection alone for a while.
    const stream = feed.replicate({ live: false, download: false, timeout: 120000 })
    let over = false
    socket.on('error', end).on('close', end)
    stream.on('error', end)
    socket.pipe(stream).pipe(socket)
    function end () {
      if (over) return
      over = true
      socket.destroy()
      stream.destroy()
      if (++closed === peers) finish()
    }
  })
  server.listen(0, '127.0.0.1', 1024, () => console.log('READY ' + server.address().port))
})

function finish () {
  const used = process.cpuUsage(cpu)
  console.log(JSON.stringify({ user: used.user / 1e6, sys: used.system / 1e6 }))
  process.exit(0)
}
