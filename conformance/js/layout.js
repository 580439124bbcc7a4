'use strict'
// Drives in the layouts that hyperdrive and dat-node had beside that of dat-storage, which drive.js has. One of:
//   layout.js write LAYOUT DIR FILES.json           {path: hex}: puts them as the owner, in a new drive or the one there
//   layout.js read  LAYOUT DIR                      prints {path: hex} of the newest version
//   layout.js clone LAYOUT DIR KEY PORT PATH        all metadata and this one file, from a peer on this machine
const fs = require('fs')
const net = require('net')
const path = require('path')
const { load } = require('./common')
const hyperdrive = load('hyperdrive')
const raf = load('random-access-file')

const [command, layout, dir, ...rest] = process.argv.slice(2)
const call = fn => new Promise((resolve, reject) => fn((err, value) => err ? reject(err) : resolve(value)))

// As dat-node does for `latest: false`, and as its version 3.0.0 and hyperdrive do by themselves
function storage () {
  if (layout === 'hyperdrive') return dir
  if (layout === 'dat-node 3.0') return path.join(dir, '.dat')
  if (layout !== 'flat') throw new Error('no layout ' + layout)
  return { metadata: name => raf(path.join(dir, 'metadata.' + name)), content: name => raf(path.join(dir, 'content.' + name)) }
}

async function open (key) {
  fs.mkdirSync(dir, { recursive: true })
  const archive = hyperdrive(storage(), key, { latest: false, sparse: command === 'clone' })
  archive.on('error', fail)
  await call(cb => archive.ready(cb))
  return archive
}

async function filesOf (archive, only) {
  const found = {}
  const walk = async at => {
    for (const name of (await call(cb => archive.readdir(at, cb))).sort()) {
      const child = path.posix.join(at, name)
      if ((await call(cb => archive.stat(child, cb))).isDirectory()) await walk(child)
      else if (!only || child === only) found[child] = (await call(cb => archive.readFile(child, cb))).toString('hex')
    }
  }
  await walk('/')
  return found
}

async function main () {
  let told
  const archive = await open(command === 'clone' ? Buffer.from(rest[0], 'hex') : null)
  if (command === 'write') {
    for (const [name, hex] of Object.entries(JSON.parse(fs.readFileSync(rest[0])))) {
      await call(cb => archive.writeFile(name, Buffer.from(hex, 'hex'), cb))
    }
    told = { key: archive.key.toString('hex'), version: archive.version }
  } else if (command === 'clone') {
    const socket = net.connect(+rest[1], '127.0.0.1')
    const stream = archive.replicate({ live: true })
    stream.on('error', () => {})
    socket.on('error', fail)
    socket.pipe(stream).pipe(socket)
    await call(cb => archive.metadata.update(cb))
    await call(cb => archive.metadata.download({ start: 0, end: archive.metadata.length }, cb))
    told = await filesOf(archive, rest[2])
    socket.removeListener('error', fail)
    socket.on('error', () => {})
    socket.destroy()
  } else told = await filesOf(archive)
  await call(cb => archive.close(cb))
  fs.writeSync(1, JSON.stringify(told))
  process.exit(0)
}

function fail (err) {
  console.error('layout.js: ' + (err && err.stack || err))
  process.exit(1)
}
main().catch(fail)
