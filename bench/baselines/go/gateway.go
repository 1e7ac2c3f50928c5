// The gateway a Go user would write: gorilla/websocket in, grpc-go out, one stream of Riva's per socket.
// RIVA=host:port gateway [PORT]
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/grpc"

	riva "perch/riva"
)

const (
	streamsPerConnection = 50
	linearPCM            = 1
	bytesPerSecond       = 32000
)

// --- connections to Riva -----------------------------------------------------------------------------

type connection struct {
	client  riva.RivaSpeechRecognitionClient
	streams int
}

type connections struct {
	lock    sync.Mutex
	address string
	open    []*connection
}

func (all *connections) take() (*connection, error) {
	all.lock.Lock()
	defer all.lock.Unlock()
	for _, each := range all.open {
		if each.streams < streamsPerConnection {
			each.streams++
			return each, nil
		}
	}
	dialled, err := grpc.Dial(all.address, grpc.WithInsecure(),
		grpc.WithInitialWindowSize(1<<20), grpc.WithInitialConnWindowSize(1<<24))
	if err != nil {
		return nil, err
	}
	made := &connection{client: riva.NewRivaSpeechRecognitionClient(dialled), streams: 1}
	all.open = append(all.open, made)
	return made, nil
}

func (all *connections) giveBack(one *connection) {
	all.lock.Lock()
	one.streams--
	all.lock.Unlock()
}

// --- events ------------------------------------------------------------------------------------------

type word struct {
	Word       string  `json:"word"`
	Start      float64 `json:"start"`
	End        float64 `json:"end"`
	Confidence float32 `json:"confidence"`
}

type partial struct {
	Type      string  `json:"type"`
	Segment   int     `json:"segment"`
	Text      string  `json:"text"`
	IsFinal   bool    `json:"is_final"`
	Start     float64 `json:"start"`
	End       float64 `json:"end"`
	Stability float32 `json:"stability"`
	StreamID  string  `json:"stream_id"`
	Seq       int     `json:"seq"`
}

type final struct {
	Type       string  `json:"type"`
	Segment    int     `json:"segment"`
	Text       string  `json:"text"`
	IsFinal    bool    `json:"is_final"`
	Start      float64 `json:"start"`
	End        float64 `json:"end"`
	Words      []word  `json:"words"`
	Confidence float32 `json:"confidence"`
	StreamID   string  `json:"stream_id"`
	Seq        int     `json:"seq"`
}

type done struct {
	Type     string  `json:"type"`
	AudioS   float64 `json:"audio_s"`
	Segments int     `json:"segments"`
	Text     string  `json:"text"`
	StreamID string  `json:"stream_id"`
	Seq      int     `json:"seq"`
}

type problem struct {
	Type     string `json:"type"`
	Code     string `json:"code"`
	Message  string `json:"message"`
	StreamID string `json:"stream_id"`
	Seq      int    `json:"seq"`
}

type ready struct {
	Type     string `json:"type"`
	Protocol string `json:"protocol"`
	StreamID string `json:"stream_id"`
	Seq      int    `json:"seq"`
}

type command struct {
	Type   string `json:"type"`
	Config struct {
		SampleRate int32  `json:"sample_rate"`
		Language   string `json:"language"`
	} `json:"config"`
}

// --- a session ---------------------------------------------------------------------------------------

var sessions int64

// One goroutine reads the socket and writes to Riva, another reads Riva and writes to the socket.
type session struct {
	socket  *websocket.Conn
	id      string
	seq     int
	segment int
	began   float64
	shown   []string
	heard   int64
}

func (s *session) next() int {
	s.seq++
	return s.seq
}

func (s *session) run(all *connections) {
	defer s.socket.Close()
	var start command
	if err := s.socket.ReadJSON(&start); err != nil || start.Type != "start" {
		s.fail("bad_message", "Send start first.")
		return
	}
	connection, err := all.take()
	if err != nil {
		s.fail("engine_unavailable", err.Error())
		return
	}
	defer all.giveBack(connection)
	within, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, err := connection.client.StreamingRecognize(within)
	if err == nil {
		err = stream.Send(configuration(&start))
	}
	if err == nil {
		err = s.socket.WriteJSON(ready{"ready", "perch.v1", s.id, s.next()})
	}
	if err != nil {
		s.fail("engine_unavailable", err.Error())
		return
	}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		s.answer(stream)
	}()
	if s.listen(stream) {
		<-answered // the rest is recognised
	}
	cancel()
	<-answered
}

func configuration(start *command) *riva.StreamingRecognizeRequest {
	rate, language := start.Config.SampleRate, start.Config.Language
	if rate == 0 {
		rate = 16000
	}
	if language == "" {
		language = "en-US"
	}
	return &riva.StreamingRecognizeRequest{
		StreamingRequest: &riva.StreamingRecognizeRequest_StreamingConfig{
			StreamingConfig: &riva.StreamingRecognitionConfig{
				Config: &riva.RecognitionConfig{
					Encoding:                   linearPCM,
					SampleRateHertz:            rate,
					LanguageCode:               language,
					MaxAlternatives:            1,
					AudioChannelCount:          1,
					EnableWordTimeOffsets:      true,
					EnableAutomaticPunctuation: true,
				},
				InterimResults: true,
			},
		},
	}
}

// listen passes the socket's audio on until it stops; false if it broke off.
func (s *session) listen(stream riva.RivaSpeechRecognition_StreamingRecognizeClient) bool {
	audio := &riva.StreamingRecognizeRequest_AudioContent{}
	request := &riva.StreamingRecognizeRequest{StreamingRequest: audio}
	buffer := make([]byte, 0, 8192)
	for {
		kind, reader, err := s.socket.NextReader()
		if err != nil {
			return false
		}
		if kind == websocket.TextMessage {
			var message command
			if json.NewDecoder(reader).Decode(&message) != nil || message.Type != "stop" {
				return false
			}
			return stream.CloseSend() == nil
		}
		if buffer, err = readAll(reader, buffer[:0]); err != nil {
			return false
		}
		audio.AudioContent = buffer // Send has serialised it when it returns
		if stream.Send(request) != nil {
			return true // answer knows why
		}
		atomic.AddInt64(&s.heard, int64(len(buffer)))
	}
}

// readAll is io.ReadAll into a buffer that is used again.
func readAll(reader io.Reader, into []byte) ([]byte, error) {
	for {
		if len(into) == cap(into) {
			into = append(into, 0)[:len(into)]
		}
		size, err := reader.Read(into[len(into):cap(into)])
		into = into[:len(into)+size]
		if err != nil {
			if err == io.EOF {
				return into, nil
			}
			return into, err
		}
	}
}

// answer passes Riva's results on until it has none.
func (s *session) answer(stream riva.RivaSpeechRecognition_StreamingRecognizeClient) {
	for {
		response, err := stream.Recv()
		if err != nil {
			if err == io.EOF {
				s.finish()
			} else {
				s.fail("engine_unavailable", err.Error())
			}
			return
		}
		for _, result := range response.Results {
			if s.send(result) != nil {
				return
			}
		}
	}
}

func (s *session) send(result *riva.StreamingRecognitionResult) error {
	if len(result.Alternatives) == 0 {
		return nil
	}
	best := result.Alternatives[0]
	if !result.IsFinal {
		return s.socket.WriteJSON(partial{
			"partial", s.segment, best.Transcript, false, s.began, float64(result.AudioProcessed),
			result.Stability, s.id, s.next(),
		})
	}
	words := make([]word, len(best.Words))
	for index, each := range best.Words {
		words[index] = word{each.Word, float64(each.StartTime) / 1000, float64(each.EndTime) / 1000, each.Confidence}
	}
	start, end := s.began, float64(result.AudioProcessed)
	if len(words) > 0 {
		start, end = words[0].Start, words[len(words)-1].End
	}
	event := final{
		"final", s.segment, best.Transcript, true, start, end, words, best.Confidence, s.id, s.next(),
	}
	s.shown = append(s.shown, best.Transcript)
	s.segment++
	s.began = end
	return s.socket.WriteJSON(event)
}

func (s *session) finish() {
	seconds := float64(atomic.LoadInt64(&s.heard)) / bytesPerSecond
	s.socket.WriteJSON(done{"done", seconds, s.segment, strings.Join(s.shown, " "), s.id, s.next()})
	s.close(websocket.CloseNormalClosure)
}

func (s *session) fail(code, message string) {
	s.socket.WriteJSON(problem{"error", code, message, s.id, s.next()})
	s.close(websocket.CloseInternalServerErr)
}

func (s *session) close(code int) {
	s.socket.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), time.Now().Add(time.Second))
}

// --- the server --------------------------------------------------------------------------------------

func main() {
	port := "0"
	if len(os.Args) > 1 {
		port = os.Args[1]
	}
	upgrader := websocket.Upgrader{
		ReadBufferSize: 4096, WriteBufferSize: 4096, WriteBufferPool: &sync.Pool{},
		CheckOrigin: func(*http.Request) bool { return true },
	}
	all := &connections{address: os.Getenv("RIVA")}
	http.HandleFunc("/v1/audio/transcriptions/stream", func(answer http.ResponseWriter, request *http.Request) {
		socket, err := upgrader.Upgrade(answer, request, nil) // net sets TCP_NODELAY by itself
		if err != nil {
			return
		}
		socket.SetReadLimit(1 << 20)
		(&session{socket: socket, id: fmt.Sprintf("st_%d", atomic.AddInt64(&sessions, 1))}).run(all)
	})
	listener, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("listening on %s\n", listener.Addr())
	log.Fatal(http.Serve(listener, nil))
}
