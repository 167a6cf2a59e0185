#!/usr/bin/env node
// Drives MQTT.js in a page of headless Chromium, which speaks WebSocket as browsers do, against a broker:
//
//   browser_client.js --url ws://127.0.0.1:8083/mqtt [--origin-port 8000] [--refused]
//
// The page comes from a server of this script on 127.0.0.1, at --origin-port, and tells it what it found: an "ok" or
// "FAIL" line a check. With --refused the broker must not let the page in.
'use strict'

const { spawn } = require('node:child_process')
const fs = require('node:fs')
const http = require('node:http')
const os = require('node:os')
const path = require('node:path')

// The script ends within this many milliseconds, whatever the browser does.
const BUDGET_MS = 60_000
const BROWSERS = [process.env.CHROMIUM, 'chromium', 'chromium-browser', 'google-chrome']

const options = commandLine(process.argv.slice(2))

function commandLine (args) {
  const values = { url: 'ws://127.0.0.1:8083/mqtt', 'origin-port': '0', refused: false }
  for (let at = 0; at < args.length; at++) {
    const name = args[at].replace(/^--/, '')
    values[name] = name === 'refused' ? true : args[++at]
  }
  return values
}

/** What runs in the page. Its source is sent there: it knows nothing of what is around it here. */
async function checks (mqtt, url, refused, report) {
  const VERSIONS = { '3.1.1': 4, '5.0': 5 }
  const late = (what, ms) => new Promise((resolve, reject) => setTimeout(() => reject(new Error(`waited for ${what}`)), ms))
  const within = (promise, what) => Promise.race([promise, late(what, 15_000)])

  const connect = async version => {
    const client = mqtt.connect(url, { protocolVersion: VERSIONS[version], reconnectPeriod: 0 })
    const connected = new Promise((resolve, reject) => {
      client.once('connect', resolve)
      client.once('close', () => reject(new Error('the connection was closed')))
    })
    await within(connected, 'CONNACK')
    return client
  }
  const received = (client, count) => within(new Promise(resolve => {
    const messages = []
    client.on('message', (topic, payload) => {
      messages.push(`${topic}: ${payload.length > 20 ? payload.length : payload}`)
      if (messages.length === count) resolve(messages)
    })
  }), `${count} messages`)
  const expect = (got, wanted) => {
    if (JSON.stringify(got) !== JSON.stringify(wanted)) throw new Error(`expected ${wanted}, got ${got}`)
  }

  const everyQos = async version => {
    const client = await connect(version)
    const topic = `browser/${version}/${Math.random()}`
    const messages = received(client, 4)
    await within(client.subscribeAsync(`${topic}/#`, { qos: 2 }), 'SUBACK')
    for (const qos of [0, 1, 2]) await within(client.publishAsync(`${topic}/${qos}`, `at ${qos}`, { qos }), 'its answer')
    // More than one frame, and more than a socket takes at once.
    await within(client.publishAsync(`${topic}/large`, 'x'.repeat(1_000_000), { qos: 1 }), 'PUBACK')
    expect(await messages, [`${topic}/0: at 0`, `${topic}/1: at 1`, `${topic}/2: at 2`, `${topic}/large: 1000000`])
    await within(client.endAsync(), 'the end')
  }
  const strangersStayOut = async () => {
    let connected = true
    await connect('5.0').catch(() => { connected = false })
    if (connected) throw new Error('the page was let in')
  }

  const all = refused
    ? { 'a page of another origin stays out': strangersStayOut }
    : { '3.1.1 every QoS': () => everyQos('3.1.1'), '5.0 every QoS': () => everyQos('5.0') }
  for (const [name, check] of Object.entries(all)) {
    await check().then(() => report(`ok ${name}`), error => report(`FAIL ${name}: ${error.message}`))
  }
  report('end')
}

const page = () => `<!doctype html><meta charset="utf-8"><title>MQTT</title><script src="mqtt.js"></script><script>
let telling = Promise.resolve()
const report = line => { telling = telling.then(() => fetch('/report', { method: 'POST', body: line })) }
;(${checks})(mqtt, ${JSON.stringify(options.url)}, ${options.refused}, report)
</script>`

function serve (report) {
  const server = http.createServer((request, response) => {
    if (request.url === '/') return response.setHeader('content-type', 'text/html').end(page())
    if (request.url === '/mqtt.js') return fs.createReadStream(path.join(__dirname, 'node_modules/mqtt/dist/mqtt.min.js')).pipe(response)
    if (request.url !== '/report') return response.writeHead(404).end()
    let body = ''
    request.on('data', data => { body += data })
    request.on('end', () => { response.end(); report(body) })
  })
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(Number(options['origin-port']), '127.0.0.1', () => resolve(server))
  })
}

function browser () {
  const found = BROWSERS.filter(Boolean).find(name => {
    const places = name.includes('/') ? [''] : process.env.PATH.split(':')
    return places.some(place => fs.existsSync(path.join(place, name)))
  })
  if (!found) throw new Error('no Chromium: install the package "chromium"')
  return found
}

async function main () {
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'browser-'))
  let failures = 0
  let end
  const ended = new Promise(resolve => { end = resolve })
  const server = await serve(line => {
    if (line === 'end') return end()
    if (!line.startsWith('ok ')) failures++
    console.log(line)
  })
  // The certificate of a test broker is its own; root, as in a container, has no sandbox.
  const chromium = spawn(browser(), [
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run',
    '--disable-extensions', '--disable-background-networking', '--ignore-certificate-errors',
    `--user-data-dir=${profile}`, `http://127.0.0.1:${server.address().port}/`
  ], { stdio: 'ignore', detached: true })
  chromium.once('error', error => { failures++; console.log(`FAIL to start: ${error.message}`); end() })
  chromium.once('exit', code => { failures++; console.log(`FAIL: the browser ended with ${code}`); end() })
  const timer = setTimeout(() => { failures++; console.log('FAIL: the page did not come to its end'); end() }, BUDGET_MS)
  await ended
  clearTimeout(timer)
  chromium.removeAllListeners('exit')
  const gone = new Promise(resolve => chromium.once('exit', resolve))
  if (chromium.exitCode === null && chromium.pid) {
    // Its children as well, which would go on writing to the profile.
    process.kill(-chromium.pid, 'SIGKILL')
    await gone
  }
  fs.rmSync(profile, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 })
  process.exit(failures ? 1 : 0)
}

main().catch(error => { console.log(`FAIL: ${error.message}`); process.exit(1) })
