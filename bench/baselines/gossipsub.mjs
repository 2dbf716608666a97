// js-libp2p gossipsub as a system under test: N nodes in this process, full mesh, on loopback.
// Reads one JSON command a line from standard input and answers each with one JSON line; see
// bench/gossip.py for what the commands mean.

import { randomFillSync } from 'node:crypto'
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'

import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { createLibp2p } from 'libp2p'

const TOPIC = 'bench'
const MESH_MS = 30_000
const LOST_MS = 5_000 // a message that nothing has been heard of for so long counts as lost
const IDLE_MS = 2_000 // publishing is over and nothing more has arrived for so long
const POLL_MS = 20

const require = createRequire(import.meta.url)
const now = () => performance.now()
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

let nodes = []
let size = 0
let number = 0
let failed = 0
let arrived = () => {}

async function makeNode () {
  const node = await createLibp2p({
    addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    // All nodes share one address, which the default limits take for an attack.
    connectionManager: { inboundConnectionThreshold: 1_000, maxIncomingPendingConnections: 1_000 },
    services: {
      identify: identify(),
      pubsub: gossipsub({ globalSignaturePolicy: 'StrictSign', emitSelf: false })
    }
  })
  node.services.pubsub.addEventListener('message', (event) => {
    if (event.detail.topic === TOPIC) {
      const data = event.detail.data
      arrived(new DataView(data.buffer, data.byteOffset).getFloat64(0), now())
    }
  })
  node.services.pubsub.subscribe(TOPIC)
  return node
}

async function start (command) {
  size = command.size
  nodes = await Promise.all(Array.from({ length: command.nodes }, makeNode))
  for (const [index, node] of nodes.entries()) {
    for (const other of nodes.slice(index + 1)) {
      await node.dial(other.getMultiaddrs())
    }
  }
  const wanted = Math.min(command.nodes - 1, 4)
  const deadline = now() + MESH_MS
  while (!nodes.every((node) => node.services.pubsub.getMeshPeers(TOPIC).length >= wanted)) {
    if (now() > deadline) throw new Error('the mesh did not form')
    await sleep(POLL_MS)
  }
  const version = (name) => require(`./node_modules/${name}/package.json`).version
  const gossip = version('@libp2p/gossipsub')
  return { about: `gossipsub ${gossip}, libp2p ${version('libp2p')}, Node.js ${process.versions.node}` }
}

function publish (author) {
  const id = ++number
  const data = randomFillSync(new Uint8Array(size))
  new DataView(data.buffer).setFloat64(0, id)
  nodes[author].services.pubsub.publish(TOPIC, data).catch(() => { failed++ })
  return id
}

async function latency (command) {
  const times = []
  let delivered = 0
  for (let round = 0; round < command.rounds; round++) {
    let id = 0
    let count = 0
    let last = 0
    const begun = now()
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, LOST_MS)
      arrived = (which, at) => {
        if (which !== id) return
        last = at
        delivered++
        if (++count === nodes.length - 1) {
          clearTimeout(timer)
          resolve()
        }
      }
      id = publish(round % command.authors)
    })
    if (count === nodes.length - 1) times.push(last - begun)
  }
  return { ms: times, expected: command.rounds * (nodes.length - 1), delivered }
}

async function rate (command) {
  const counts = new Map() // of each message under way: how many have it, since when
  const need = nodes.length - 1
  let wake = () => {}
  let [sent, complete, delivered, lastComplete, lastArrival] = [0, 0, 0, 0, 0]
  const first = number + 1
  const lost = new Map()
  arrived = (id, at) => {
    if (id < first) return
    delivered++
    lastArrival = at
    const entry = counts.get(id) ?? lost.get(id)
    if (entry !== undefined && ++entry.count === need) {
      counts.delete(id)
      lost.delete(id)
      complete++
      lastComplete = at
      wake()
    }
  }
  failed = 0
  const begun = now()
  lastArrival = begun
  while (now() - begun < command.seconds * 1_000) {
    while (counts.size < command.window && now() - begun < command.seconds * 1_000) {
      const id = number + 1
      counts.set(id, { count: 0, at: now() })
      publish(sent++ % command.authors)
      // Reading and writing wait until we let them.
      if (sent % 16 === 0) await new Promise((resolve) => setImmediate(resolve))
    }
    await new Promise((resolve) => { wake = resolve; setTimeout(resolve, POLL_MS) })
    for (const [id, entry] of counts) {
      if (now() - entry.at < LOST_MS) break
      counts.delete(id)
      lost.set(id, entry)
    }
  }
  while (complete < sent && now() - lastArrival < IDLE_MS) await sleep(POLL_MS)
  arrived = () => {}
  return {
    seconds: (lastComplete - begun) / 1_000,
    complete,
    expected: sent * need,
    delivered,
    failed
  }
}

const commands = { start, latency, rate }
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line)
  let answer
  try {
    answer = await commands[command.do](command)
  } catch (error) {
    answer = { error: String(error) }
  }
  process.stdout.write(JSON.stringify(answer) + '\n')
}
process.exit(0) // the end of the input ends the nodes
