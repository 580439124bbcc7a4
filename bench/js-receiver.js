'use strict'
// usage: node js-receiver.js FOLDER PORT KEY [--max-requests N] [--linear] [--sync]
//
// Downloads a whole feed with hypercore 6 from 127.0.0.1:PORT into FOLDER, and ends when every block is stored. Prints
// one line of JSON: wall, user and system seconds from the connect until hypercore says it has stored everything (node's
// own start and the closing of the files are not in it). Default: hypercore's own, blocks in random order, 16 requests
// in flight. --linear: one ascending range, as its read stream asks for.
//
// --sync: hypercore never syncs. Its files are wrapped: when 64 MiB have been written, or 1 s after the first write
// that is not synced yet, fdatasync is called on those written to, data, then tree, signatures, then bitfield, one after
// the other; hypercore goes on meanwhile. One last time when everything is stored, before the clock stops.
//
// DEPS: the folder that has node_modules, with hypercore and its native sodium.
//
// SPDX-License-Identifier: MIT
const fs = require('fs')
const net = require('net')
const path = require('path')
const req = require('module').createRequire(path.resolve(process.env.DEPS) + '/')
const hypercore = req('hypercore')
const raf = req('random-access-file')

const SYNC_BYTES = 64 << 20
const SYNC_MS = 1000
const ORDER = ['data', 'tree', 'signatures', 'key', 'secret_key', 'bitfield']

const argv = process.argv.slice(2)
const flag = function (name) { const i = argv.indexOf(name); if (i >= 0) argv.splice(i, 1); return i >= 0 }
const option = function (name) { const i = argv.indexOf(name); return i < 0 ? 0 : Number(argv.splice(i, 2)[1]) }
const sync = flag('--sync')
const linear = flag('--linear')
const maxRequests = option('--max-requests')
const [folder, port, key] = argv

if (req('sodium-universal') !== req('sodium-native')) throw new Error('hypercore does not take the native sodium')

// ---- the sync schedule ----

const dirty = new Map() // name: file
let unsynced = 0
let timer = null
let syncing = false
let syncs = 0
let idle = null // called when no sync runs

function file (name) {
  const f = raf(name, { directory: folder })
  const write = f.write
  f.write = function (offset, data, cb) {
    write.call(f, offset, data, function (err) {
      if (!err) wrote(name, f, data.length)
      if (cb) cb(err)
    })
  }
  return f
}

function wrote (name, f, bytes) {
  dirty.set(name, f)
  unsynced += bytes
  if (timer === null) timer = setTimeout(flush, SYNC_MS)
  if (unsynced >= SYNC_BYTES) flush()
}

function flush () {
  if (syncing) return
  clearTimeout(timer)
  timer = null
  unsynced = 0
  const files = ORDER.filter(name => dirty.has(name)).map(name => dirty.get(name))
  dirty.clear()
  syncing = true
  syncs++
  next()
  function next () {
    if (files.length) return fs.fdatasync(files.shift().fd, function (err) { if (err) fail(err); next() })
    syncing = false
    if (idle) return idle()
    if (unsynced >= SYNC_BYTES) flush()
    else if (dirty.size && timer === null) timer = setTimeout(flush, SYNC_MS)
  }
}

function last (cb) {
  if (!sync) return cb()
  idle = function () { if (dirty.size) flush(); else cb() }
  if (!syncing) idle()
}

// ---- the download ----

const options = { sparse: linear }
if (maxRequests) options.maxRequests = maxRequests
const feed = hypercore(sync ? file : folder, Buffer.from(key, 'hex'), options)
let received = false
let over = false

feed.on('error', fail)
feed.ready(function () {
  const start = process.hrtime.bigint()
  const cpu = process.cpuUsage()
  const socket = net.connect(Number(port), '127.0.0.1')
  const stream = feed.replicate({ live: linear, timeout: 120000 })
  stream.on('error', fail)
  socket.on('error', fail)
  socket.on('close', function () {
    if (received) return // the sender has no reason to stay
    fail(new Error('the connection closed after ' + feed.downloaded() + ' of ' + feed.length + ' blocks'))
  })
  socket.pipe(stream).pipe(socket)
  if (linear) feed.update(() => feed.download({ start: 0, end: feed.length, linear: true }, err => err ? fail(err) : complete()))
  else feed.once('sync', complete)

  function complete () {
    received = true
    // The bitfield's last pages are written after 'sync': hypercore's own flush.
    feed._sync(null, function (err) { if (err) fail(err); last(stored) })
  }
  function stored () {
    over = true
    clearTimeout(timer)
    const wall = Number(process.hrtime.bigint() - start) / 1e9
    const used = process.cpuUsage(cpu)
    const whole = feed.downloaded() === feed.length
    feed.close(function () {
      socket.destroy()
      console.log(JSON.stringify({ wall, user: used.user / 1e6, sys: used.system / 1e6, syncs }))
      process.exit(whole ? 0 : 1)
    })
  }
})

function fail (err) {
  if (over || (received && (err.code === 'ECONNRESET' || err.code === 'EPIPE'))) return
  console.error('receiver:', err)
  process.exit(1)
}
