#!/usr/bin/env node
// Drives the client library MQTT.js, at MQTT 3.1, 3.1.1 and 5.0, against a broker; with `--protocol ws` by WebSocket,
// as in a browser, with `mqtts` and `wss` by TLS. `--cafile` says who signed the broker's certificate, `--short` is to
// connect, publish and subscribe, no more.
'use strict'

const crypto = require('node:crypto')
const fs = require('node:fs')
const { isDeepStrictEqual, inspect } = require('node:util')
const mqtt = require('mqtt')

// The script ends within this many milliseconds, whatever the broker does: every wait is cut to what is left.
const BUDGET_MS = 36_000
// How long one awaited event may take. Generous: a slow machine is no failure.
const WAIT_MS = 8_000
const VERSIONS = ['3.1', '3.1.1', '5.0']
const PROTOCOL = {
  '3.1': { protocolId: 'MQIsdp', protocolVersion: 3 },
  '3.1.1': { protocolId: 'MQTT', protocolVersion: 4 },
  '5.0': { protocolId: 'MQTT', protocolVersion: 5 }
}
const CROWD = 200
// PUBLISH packets in flight at once. mosquitto announces a Receive Maximum of 20, and ends also a connection of 3.1.1
// at the 21st QoS 2 message in flight.
const WINDOW = 20

const runId = crypto.randomBytes(4).toString('hex')
const ends = Date.now() + BUDGET_MS
const { host, port, protocol, path, ca, short: isShort } = commandLine(process.argv.slice(2))
let serial = 0
let failures = 0

function commandLine (args) {
  const values = { host: '127.0.0.1', port: '1883', protocol: 'mqtt', path: '/mqtt', cafile: null, short: false }
  for (let at = 0; at < args.length; at++) {
    const name = args[at].replace(/^--/, '')
    values[name] = name === 'short' ? true : args[++at]
  }
  return { ...values, port: Number(values.port), ca: values.cafile ? { ca: fs.readFileSync(values.cafile) } : {} }
}

/** A Topic Name that no other check and no other run uses. */
function unique (name) {
  return `check/${runId}/${serial++}/${name}`
}

/** A unique Client Identifier of at most 23 characters, the limit of MQTT 3.1. */
function clientId (name) {
  return `${runId}-${serial++}-${name}`.slice(0, 23)
}

function expect (what, got, wanted) {
  if (!isDeepStrictEqual(got, wanted)) throw new Error(`${what}: expected ${short(wanted)}, got ${short(got)}`)
}

function short (value) {
  const text = inspect(value, { breakLength: Infinity, maxStringLength: 200 })
  return text.length > 300 ? `${text.slice(0, 300)}… (${text.length} characters)` : text
}

/** Settles as the promise does, or fails when that takes too long. `describe` is asked only then. */
async function within (promise, describe) {
  let timer
  const late = new Promise((resolve, reject) => {
    const left = Math.max(50, Math.min(WAIT_MS, ends - Date.now()))
    timer = setTimeout(() => reject(new Error(`waited for ${describe()}`)), left)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}

const open = new Set()

/** A client and what it received. */
class Peer {
  static async connect (version, options = {}) {
    const peer = new Peer(version, options)
    const connack = await within(peer.connected, () => 'CONNACK')
    peer.sessionPresent = connack.sessionPresent
    return peer
  }

  constructor (version, options) {
    this.received = []
    this.taken = 0
    this.wake = () => {}
    const clean = options.clean ?? true
    const properties = version === '5.0' ? { properties: { sessionExpiryInterval: clean ? 0 : 300 } } : {}
    this.client = mqtt.connect({
      host,
      port,
      protocol,
      path,
      ...ca,
      clientId: clientId('js'),
      clean,
      reconnectPeriod: 0,
      ...PROTOCOL[version],
      ...properties,
      ...options
    })
    open.add(this)
    this.client.on('message', (topic, payload, packet) => {
      const { qos, retain, properties } = packet
      this.received.push({ topic, payload: payload.toString(), bytes: payload, qos, retain, properties })
      this.wake()
    })
    this.closed = new Promise(resolve => this.client.once('close', resolve))
    this.connected = new Promise((resolve, reject) => {
      this.client.once('connect', resolve)
      this.client.on('error', reject)
      this.client.once('close', () => reject(new Error('the connection was closed')))
    })
    // Who does not wait for it, or whose connection ends later, is not concerned.
    this.connected.catch(() => {})
  }

  /** Like `within`, but fails at once when the connection ends. */
  async waitFor (promise, describe) {
    const lost = this.closed.then(() => { throw new Error(`the connection was closed before ${describe()}`) })
    return within(Promise.race([promise, lost]), describe)
  }

  async subscribe (topic, qos, options = {}) {
    const [granted] = await this.waitFor(this.client.subscribeAsync(topic, { qos, ...options }), () => `SUBACK of ${topic}`)
    expect('granted QoS', granted.qos, qos)
  }

  async unsubscribe (topic) {
    await this.waitFor(this.client.unsubscribeAsync(topic), () => `UNSUBACK of ${topic}`)
  }

  /** Settles once the broker has acknowledged, or for QoS 0 once the packet is written. */
  async publish (topic, payload, qos = 1, options = {}) {
    const done = this.client.publishAsync(topic, payload, { qos, ...options })
    await this.waitFor(done, () => `acknowledgement of a message to ${topic}`)
  }

  /** Publishes in order, many at a time: MQTT.js leaves it to its caller to keep to the Receive Maximum. */
  async publishAll (topic, payloads, qos) {
    for (let at = 0; at < payloads.length; at += WINDOW) {
      await Promise.all(payloads.slice(at, at + WINDOW).map(payload => this.publish(topic, payload, qos)))
    }
  }

  /** The next messages; fails when fewer arrive in time. */
  async take (count) {
    const wanted = this.taken + count
    const enough = new Promise(resolve => {
      this.wake = () => { if (this.received.length >= wanted) resolve() }
      this.wake()
    })
    const payloads = () => short(this.received.slice(this.taken).map(message => message.payload))
    await this.waitFor(enough, () => `${count} messages, holding ${payloads()}`)
    const taken = this.received.slice(this.taken, wanted)
    this.taken = wanted
    return taken
  }

  /** The messages before the one with this payload: a fence that shows that nothing else came. */
  async takeUntil (payload) {
    const before = []
    for (;;) {
      const [message] = await this.take(1)
      if (message.payload === payload) return before
      before.push(message)
    }
  }

  /** Ends the connection with DISCONNECT. */
  async end (disconnect = {}) {
    open.delete(this)
    await within(this.client.endAsync(false, disconnect), () => 'the end of a connection')
  }

  /** Ends the connection without DISCONNECT. */
  async vanish () {
    open.delete(this)
    this.client.stream.destroy()
    await within(this.closed, () => 'the end of a connection')
    this.client.end(true)
  }
}

async function run (name, check) {
  try {
    await check()
    console.log(`ok ${name}`)
  } catch (error) {
    failures++
    console.log(`FAIL ${name}: ${String(error.message ?? error).replace(/\s+/g, ' ')}`)
  }
  for (const peer of open) peer.client.end(true)
  open.clear()
}

function payloads (messages) {
  return messages.map(message => message.payload)
}

function numbered (prefix, count) {
  return Array.from({ length: count }, (_, n) => `${prefix}${n}`)
}

async function everyQos (version) {
  const publisher = await Peer.connect(version)
  for (const subscribed of [0, 1, 2]) {
    const topic = unique('qos')
    const subscriber = await Peer.connect(version)
    await subscriber.subscribe(topic, subscribed)
    for (const published of [0, 1, 2]) {
      await publisher.publish(topic, `at ${published}`, published)
      const [{ payload, qos, retain }] = await subscriber.take(1)
      const wanted = { payload: `at ${published}`, qos: Math.min(published, subscribed), retain: false }
      expect(`${published} to ${subscribed}`, { payload, qos, retain }, wanted)
    }
    await publisher.publish(topic, 'fence', 2)
    expect('messages too many', payloads(await subscriber.takeUntil('fence')), [])
    await subscriber.end()
  }
}

async function order (version, qos) {
  const topic = unique('order')
  const wanted = numbered('', 500)
  const subscriber = await Peer.connect(version)
  const publisher = await Peer.connect(version)
  await subscriber.subscribe(topic, qos)
  await publisher.publishAll(topic, wanted, qos)
  expect('messages in order', payloads(await subscriber.take(500)), wanted)
}

async function unsubscribe (version) {
  const topic = unique('gone')
  const other = unique('kept')
  const peer = await Peer.connect(version)
  await peer.subscribe(topic, 1)
  await peer.subscribe(other, 1)
  await peer.unsubscribe(topic)
  await peer.publish(topic, 'unwanted')
  await peer.publish(other, 'fence')
  expect('after UNSUBACK', payloads(await peer.takeUntil('fence')), [])
}

async function retained (version) {
  const topic = unique('retained')
  const publisher = await Peer.connect(version)
  await publisher.subscribe(topic, 1)
  await publisher.publish(topic, 'first', 1, { retain: true })
  await publisher.publish(topic, 'second', 1, { retain: true })
  expect('retain, when forwarded', (await publisher.take(2)).map(message => message.retain), [false, false])
  const late = await Peer.connect(version)
  await late.subscribe(`${topic}/#`, 2)
  const [{ payload, retain, qos }] = await late.take(1)
  expect('on subscribe', { payload, retain, qos }, { payload: 'second', retain: true, qos: 1 })
  await publisher.publish(topic, '', 1, { retain: true })
  const after = await Peer.connect(version)
  await after.subscribe(topic, 1)
  await publisher.publish(topic, 'fence')
  expect('messages after clearing', payloads(await after.takeUntil('fence')), [])
}

async function wills (version) {
  const topic = unique('will')
  const watcher = await Peer.connect(version)
  await watcher.subscribe(topic, 2)
  for (const qos of [0, 1, 2]) {
    const will = { topic, payload: Buffer.from('gone'), qos, retain: false }
    await (await Peer.connect(version, { will })).vanish()
    const [message] = await watcher.take(1)
    expect('will', { payload: message.payload, qos: message.qos }, { payload: 'gone', qos })
    await (await Peer.connect(version, { will })).end()
    await watcher.publish(topic, 'fence', 2)
    expect('wills after DISCONNECT', payloads(await watcher.takeUntil('fence')), [])
  }
}

async function willOnRequest () {
  const topic = unique('will')
  const watcher = await Peer.connect('5.0')
  await watcher.subscribe(topic, 1)
  const properties = { contentType: 'text/plain', userProperties: { cause: 'request' } }
  const will = { topic, payload: Buffer.from('gone'), qos: 1, retain: false, properties }
  // Reason Code 0x04: Disconnect with Will Message.
  await (await Peer.connect('5.0', { will })).end({ reasonCode: 4 })
  const [message] = await watcher.take(1)
  expect('will', message.payload, 'gone')
  expect('Content Type', message.properties.contentType, 'text/plain')
  expect('User Properties', { ...message.properties.userProperties }, { cause: 'request' })
}

async function persistentSession (version) {
  const topic = unique('session')
  const session = { clientId: clientId('away'), clean: false }
  const wanted = { 1: numbered('one ', 50), 2: numbered('two ', 50) }
  const first = await Peer.connect(version, session)
  expect('Session Present at first', first.sessionPresent, false)
  await first.subscribe(topic, 2)
  await first.end()
  const publisher = await Peer.connect(version)
  for (const qos of [1, 2]) await publisher.publishAll(topic, wanted[qos], qos)
  const back = await Peer.connect(version, session)
  // The CONNACK of 3.1 has no such flag.
  if (version !== '3.1') expect('Session Present on return', back.sessionPresent, true)
  const got = await back.take(100)
  for (const qos of [1, 2]) {
    expect(`queued at QoS ${qos}`, payloads(got.filter(message => message.qos === qos)), wanted[qos])
  }
  await publisher.publish(topic, 'fence', 2)
  expect('messages too many', payloads(await back.takeUntil('fence')), [])
  await back.end()
  const fresh = await Peer.connect(version, { ...session, clean: true })
  expect('Session Present after a clean start', fresh.sessionPresent, false)
  await fresh.subscribe(`${topic}/fence`, 1)
  await publisher.publish(topic, 'lost')
  await publisher.publish(`${topic}/fence`, 'fence')
  expect('messages to a clean session', payloads(await fresh.takeUntil('fence')), [])
}

async function sharedSubscription () {
  const topic = unique('shared')
  const wanted = numbered('', 60)
  const publisher = await Peer.connect('5.0')
  const everything = await Peer.connect('5.0')
  await everything.subscribe(topic, 1)
  const members = []
  for (let n = 0; n < 3; n++) {
    const member = await Peer.connect('5.0')
    member.fence = unique('fence')
    await member.subscribe(`$share/group/${topic}`, 1)
    await member.subscribe(member.fence, 1)
    members.push(member)
  }
  await publisher.publishAll(topic, wanted, 1)
  expect('ordinary subscriber', payloads(await everything.take(60)), wanted)
  const got = []
  for (const member of members) {
    await publisher.publish(member.fence, 'fence')
    got.push(...payloads(await member.takeUntil('fence')))
  }
  expect('messages of the group', got.map(Number).sort((a, b) => a - b), wanted.map(Number))
}

async function propertiesPassThrough () {
  const properties = {
    userProperties: { colour: ['blue', 'red'], size: '9', größe: 'ß' },
    contentType: 'application/json',
    responseTopic: 'answer/here',
    correlationData: Buffer.from([0, 255, 16]),
    payloadFormatIndicator: true
  }
  for (const qos of [0, 1, 2]) {
    const topic = unique('properties')
    const peer = await Peer.connect('5.0')
    await peer.subscribe(topic, qos, { properties: { subscriptionIdentifier: 7 } })
    await peer.publish(topic, '{}', qos, { properties })
    const got = (await peer.take(1))[0].properties
    expect('User Properties', { ...got.userProperties }, properties.userProperties)
    for (const name of ['contentType', 'responseTopic', 'correlationData', 'payloadFormatIndicator']) {
      expect(name, got[name], properties[name])
    }
    expect('Subscription Identifier', got.subscriptionIdentifier, 7)
  }
}

async function topicAlias () {
  const topic = unique('alias')
  const subscriber = await Peer.connect('5.0', { properties: { topicAliasMaximum: 4 } })
  await subscriber.subscribe(`${topic}/#`, 1)
  const publisher = await Peer.connect('5.0', { autoAssignTopicAlias: true })
  const topics = [`${topic}/a`, `${topic}/b`, `${topic}/a`, `${topic}/b`, `${topic}/a`]
  for (const name of topics) await publisher.publish(name, 'x')
  expect('topics', (await subscriber.take(5)).map(message => message.topic), topics)
}

async function oneMebibyte (version, qos) {
  const topic = unique('large')
  const payload = crypto.randomBytes(1024 * 1024)
  const peer = await Peer.connect(version)
  await peer.subscribe(topic, qos)
  await peer.publish(topic, payload, qos)
  const [message] = await peer.take(1)
  if (!payload.equals(message.bytes)) throw new Error('the payload came back changed')
}

async function manyClients () {
  const topic = unique('crowd')
  const versions = Array.from({ length: CROWD }, (_, n) => VERSIONS[n % VERSIONS.length])
  const crowd = await Promise.all(versions.map(version => Peer.connect(version)))
  await Promise.all(crowd.map((peer, n) => peer.subscribe(`${topic}/${n}`, 1)))
  await Promise.all(crowd.map(peer => peer.subscribe(`${topic}/all`, 1)))
  await Promise.all(crowd.map((peer, n) => peer.publish(`${topic}/${(n + 1) % CROWD}`, `from ${n}`)))
  const got = await Promise.all(crowd.map(peer => peer.take(1)))
  for (let n = 0; n < CROWD; n++) {
    expect(`received by client ${n}`, payloads(got[n]), [`from ${(n + CROWD - 1) % CROWD}`])
  }
  await crowd[0].publish(`${topic}/all`, 'to all')
  const last = await Promise.all(crowd.map(peer => peer.take(1)))
  for (const messages of last) expect('to all', payloads(messages), ['to all'])
}

async function shortList () {
  for (const version of VERSIONS) await run(`${version} every QoS to every QoS`, () => everyQos(version))
  await run('5.0 1 MiB at QoS 1', () => oneMebibyte('5.0', 1))
}

async function longList () {
  for (const version of VERSIONS) {
    await run(`${version} every QoS to every QoS`, () => everyQos(version))
    for (const qos of [0, 1, 2]) await run(`${version} order of 500 messages at QoS ${qos}`, () => order(version, qos))
    await run(`${version} unsubscribe`, () => unsubscribe(version))
    await run(`${version} retained: set, replaced, received, cleared`, () => retained(version))
    await run(`${version} wills: sent after a loss, not after DISCONNECT`, () => wills(version))
    await run(`${version} persistent session with offline messages`, () => persistentSession(version))
    for (const qos of [0, 1, 2]) await run(`${version} 1 MiB at QoS ${qos}`, () => oneMebibyte(version, qos))
  }
  await run('5.0 will on request, with its properties', willOnRequest)
  await run('5.0 shared subscription', sharedSubscription)
  await run('5.0 properties pass through', propertiesPassThrough)
  await run('5.0 topic alias', topicAlias)
  await run(`${CROWD} clients at once`, manyClients)
}

const list = isShort ? shortList : longList
list().then(() => process.exit(failures ? 1 : 0))
