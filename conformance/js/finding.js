'use strict'
// How the deployed Dat finds peers, piece by piece: its servers, its tables, its swarms.
//
//   node finding.js dns PORT[,PORT] [--server HOST[:PORT]]
//   node finding.js dht PORT [--bootstrap HOST:PORT]
//   node finding.js swarm share|clone KEY [--server HOST[:PORT]] [--bootstrap HOST:PORT] [--multicast]
//
// dns: a dns-discovery, without multicast, that listens on these ports and asks that server. On stdin "announce NAME
//   PORT", "lookup NAME", "unannounce NAME PORT" (answered by "done WORD" or "failed WORD") and "held NAME" ("held
//   HOST:PORT ..."). Prints "peer NAME HOST:PORT" for what it is told of, pushed or answered.
// dht: a bittorrent-dht. "announce NAME PORT" and "lookup NAME" ("done WORD NODES"), NAME being 40 digits; prints "peer
//   NAME HOST:PORT" for what it finds, and "announced NAME HOST:PORT" for what is announced to it.
// swarm: a discovery-swarm with a hyperdrive, as dat makes it; share: of one small file (KEY: -), prints "KEY hex". clone: prints
//   "content " and that file's. Of the ways only those are used that are named. Both print "found HOST:PORT WAY" and
//   "connection HOST:PORT", and stay.
//
// All print "listening" and stay until the end of stdin. env: REAL = folder with the node_modules of
// discovery/package.json (default build/js/discovery).
const path = require('path')
const readline = require('readline')
const real = path.resolve(process.env.REAL || path.join(__dirname, '..', '..', 'build', 'js', 'discovery'))
const load = require('module').createRequire(real + path.sep)

const words = []
const opt = {}
for (let i = 2; i < process.argv.length; i++) {
  const a = process.argv[i]
  if (a === '--multicast') opt.multicast = true
  else if (a.startsWith('--')) opt[a.slice(2)] = process.argv[++i]
  else words.push(a)
}
const say = (...all) => console.log(all.join(' '))
const at = peer => peer.host + ':' + peer.port
const roles = { dns, dht, swarm }
roles[words[0]](...words.slice(1))

function onLines (does) {
  const lines = readline.createInterface({ input: process.stdin })
  lines.on('line', line => {
    const [word, ...more] = line.split(' ')
    does[word](...more)
  })
  lines.on('close', () => process.exit(0))
}

function told (word) {
  return (err, n) => say(err ? 'failed' : 'done', word, err ? err.message : n === undefined ? '' : n)
}

function dns (ports) {
  const d = load('dns-discovery')({ domain: 'dat.local', multicast: false, server: opt.server })
  d.on('peer', (name, peer) => say('peer', name, at(peer)))
  d.on('error', err => say('error', err.message))
  d.listen(ports.split(',').map(Number), () => say('listening'))
  onLines({
    announce: (name, port) => d.announce(name, Number(port), told('announce')),
    lookup: name => d.lookup(name, told('lookup')),
    unannounce: (name, port) => d.unannounce(name, Number(port), told('unannounce')),
    held: name => say('held', ...d.toJSON().filter(one => one.name === name).map(one => one.records.map(at).join(' ')))
  })
}

function dht (port) {
  const d = new (load('bittorrent-dht'))({ bootstrap: opt.bootstrap ? [opt.bootstrap] : false })
  d.on('peer', (peer, name) => say('peer', name.toString('hex'), at(peer)))
  d.on('announce', (peer, name) => say('announced', name.toString('hex'), at(peer)))
  d.on('error', err => say('error', err.message))
  d.listen(Number(port), () => say('listening'))
  onLines({
    announce: (name, port) => d.announce(name, Number(port), told('announce')),
    lookup: name => d.lookup(name, told('lookup'))
  })
}

function swarm (role, key) {
  const memory = load('random-access-memory')
  const drive = load('hyperdrive')(memory, key === '-' ? undefined : key, { sparse: false })
  const dns = (opt.server || opt.multicast) && { domain: 'dat.local', server: opt.server || [], multicast: !!opt.multicast }
  const ready = () => {
    const s = load('discovery-swarm')({
      hash: false,
      utp: false,
      dns: dns || false,
      dht: opt.bootstrap ? { bootstrap: [opt.bootstrap] } : false,
      stream: () => drive.replicate({ live: true, upload: true, download: true })
    })
    s.on('error', err => say('error', err.message))
    s.on('connection', (connection, info) => say('connection', at(info)))
    s.on('listening', () => {
      s._discovery.on('peer', (id, peer, way) => say('found', at(peer), way))
      say('listening')
    })
    s.listen(3282)
    s.join(drive.discoveryKey, { announce: true })
  }
  onLines({ leave: () => process.exit(0) })
  drive.on('error', err => say('error', err.message))
  drive.on('ready', () => {
    if (role === 'clone') {
      ready()
      const read = () => drive.readFile('/a.txt', 'utf8', (err, text) => err ? setTimeout(read, 100) : say('content', text))
      drive.metadata.update(read)
    } else {
      drive.writeFile('/a.txt', 'a small file', err => {
        if (err) throw err
        say('KEY', drive.key.toString('hex'))
        ready()
      })
    }
  })
}
