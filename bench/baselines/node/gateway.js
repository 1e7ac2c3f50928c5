// The gateway a Node user would write: ws in, @grpc/grpc-js out, one stream of Riva's per socket.
// RIVA=host:port node gateway.js PROTO [PORT]
'use strict'

const http = require('node:http')
const grpc = require('@grpc/grpc-js')
const loader = require('@grpc/proto-loader')
const { WebSocketServer } = require('ws')

const STREAMS_PER_CHANNEL = 50 // grpc-js puts the 101st on the same connection in a queue, without a word
const LINEAR_PCM = 1

const definition = loader.loadSync(process.argv[2], { keepCase: true })
const Riva = grpc.loadPackageDefinition(definition).nvidia.riva.asr.RivaSpeechRecognition

// A channel with room; each has connections of its own.
class Channels {
  constructor(address) {
    this.address = address
    this.open = []
  }

  take() {
    let found = this.open.find((channel) => channel.streams < STREAMS_PER_CHANNEL)
    if (!found) {
      const options = { 'grpc.use_local_subchannel_pool': 1 }
      found = { client: new Riva(this.address, grpc.credentials.createInsecure(), options), streams: 0 }
      this.open.push(found)
    }
    found.streams += 1
    return found
  }
}

const channels = new Channels(process.env.RIVA)
let sessions = 0

class Session {
  constructor(socket) {
    this.socket = socket
    this.id = `st_${++sessions}`
    this.seq = 0
    this.segment = 0
    this.shown = []
    this.heard = 0
    this.began = 0
    this.call = null
    socket.on('message', (data, binary) => (binary ? this.audio(data) : this.command(data)))
    socket.on('close', () => this.call?.cancel())
    socket.on('error', () => this.call?.cancel())
  }

  command(data) {
    let message
    try {
      message = JSON.parse(data)
    } catch {
      return this.fail('bad_message', 'Text messages must be JSON.')
    }
    if (message.type === 'start') this.start(message.config || {})
    else if (message.type === 'stop' && this.call) this.call.end()
    else this.fail('bad_message', 'Send start, then audio, then stop.')
  }

  start(config) {
    if (this.call) return this.fail('bad_message', 'The session has begun.')
    const channel = channels.take()
    this.call = channel.client.StreamingRecognize()
    this.call.on('data', (response) => response.results?.forEach((result) => this.result(result)))
    this.call.on('error', (error) => this.fail('engine_unavailable', error.details))
    this.call.on('status', (status) => {
      channel.streams -= 1
      if (status.code === grpc.status.OK) this.done()
    })
    this.call.write({
      streaming_config: {
        config: {
          encoding: LINEAR_PCM,
          sample_rate_hertz: config.sample_rate || 16000,
          language_code: config.language || 'en-US',
          max_alternatives: 1,
          audio_channel_count: 1,
          enable_word_time_offsets: true,
          enable_automatic_punctuation: true,
        },
        interim_results: true,
      },
    })
    this.send({ type: 'ready', protocol: 'perch.v1' })
  }

  audio(samples) {
    if (!this.call) return this.fail('bad_message', 'Send start first.')
    this.heard += samples.length
    if (this.call.write({ audio_content: samples })) return
    this.socket.pause() // the engine is behind
    this.call.once('drain', () => this.socket.resume())
  }

  result(result) {
    const best = result.alternatives[0]
    if (!best) return
    const event = {
      type: result.is_final ? 'final' : 'partial',
      segment: this.segment,
      text: best.transcript,
      is_final: Boolean(result.is_final),
      start: this.began,
      end: result.audio_processed,
    }
    if (result.is_final) {
      const words = best.words || []
      event.words = words.map((word) => ({
        word: word.word,
        start: (word.start_time || 0) / 1000,
        end: word.end_time / 1000,
        confidence: word.confidence,
      }))
      if (words.length) {
        event.start = event.words[0].start
        event.end = event.words[words.length - 1].end
      }
      event.confidence = best.confidence
      this.shown.push(best.transcript)
      this.segment += 1
      this.began = event.end
    } else {
      event.stability = result.stability
    }
    this.send(event)
  }

  done() {
    const audio_s = this.heard / 32000
    this.send({ type: 'done', audio_s, segments: this.segment, text: this.shown.join(' ') })
    this.socket.close(1000)
  }

  fail(code, message) {
    this.send({ type: 'error', code, message })
    this.socket.close(1011)
  }

  send(event) {
    event.stream_id = this.id
    event.seq = ++this.seq
    this.socket.send(JSON.stringify(event))
  }
}

const server = http.createServer((_, response) => response.writeHead(404).end())
const sockets = new WebSocketServer({ server, perMessageDeflate: false, maxPayload: 1 << 20, skipUTF8Validation: true })
sockets.on('connection', (socket, request) => {
  request.socket.setNoDelay(true)
  new Session(socket)
})
server.listen({ port: Number(process.argv[3] || 0), host: '127.0.0.1', backlog: 1024 }, () =>
  console.log(`listening on 127.0.0.1:${server.address().port}`)
)
