// A device in Go: `s2connect serve --json` speaks S2 Connect for it. Only the standard library is needed.
//
//	s2connect init --home battery --role rm --name "Cellar battery"
//	go run examples/sidecar/device.go battery https://ems.local:8443/pairing/
//
// It asks for the code that the energy manager shows. Run it without the URL once it is paired.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

type object = map[string]any

// sidecar is a running `s2connect serve --json`: one JSON object a line, in both directions.
type sidecar struct {
	mutex   sync.Mutex
	input   io.WriteCloser
	last    float64
	waiting map[float64]chan object // results, by the id of their command
}

// command sends a command and waits for its result.
func (s *sidecar) command(name string, fields object) error {
	s.mutex.Lock()
	s.last++
	id, result := s.last, make(chan object, 1)
	s.waiting[id] = result
	fields["id"], fields["command"] = id, name
	line, err := json.Marshal(fields)
	if err == nil {
		_, err = s.input.Write(append(line, '\n'))
	}
	s.mutex.Unlock()
	if err != nil {
		return err
	}
	answer, open := <-result
	if !open {
		return fmt.Errorf("s2connect has ended")
	}
	if answer["ok"] != true {
		failure, _ := answer["error"].(object)
		return fmt.Errorf("%v %v", failure["what"], failure["hint"])
	}
	return nil
}

// finish gives a result to its command; without one, all of them end.
func (s *sidecar) finish(result object) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if result == nil {
		for id, each := range s.waiting {
			close(each)
			delete(s.waiting, id)
		}
	} else if id, ok := result["id"].(float64); ok && s.waiting[id] != nil {
		s.waiting[id] <- result
		delete(s.waiting, id)
	}
}

func (s *sidecar) send(session string, message object) error {
	return s.command("send", object{"session": session, "message": message})
}

var details = object{
	"message_type":                     "ResourceManagerDetails",
	"resource_id":                      "cellar-battery",
	"name":                             "Cellar battery",
	"roles":                            []object{{"role": "ENERGY_STORAGE", "commodity": "ELECTRICITY"}},
	"instruction_processing_delay":     100,
	"available_control_types":          []string{"FILL_RATE_BASED_CONTROL"},
	"provides_forecast":                false,
	"provides_power_measurement_types": []string{"ELECTRIC.POWER.L1"},
}

func numbers(from, to float64) object { return object{"start_of_range": from, "end_of_range": to} }

// description says what the battery can do: charge with up to 3 kW.
func description() object {
	power := numbers(0, 3000)
	power["commodity_quantity"] = "ELECTRIC.POWER.L1"
	charge := object{"fill_level_range": numbers(0, 100), "fill_rate": numbers(0, 0.01), "power_ranges": []object{power}}
	inverter := object{
		"id":                    "inverter",
		"supported_commodities": []string{"ELECTRICITY"},
		"operation_modes":       []object{{"id": "charge", "elements": []object{charge}, "abnormal_condition_only": false}},
		"transitions":           []object{},
		"timers":                []object{},
	}
	storage := object{
		"provides_leakage_behaviour":         false,
		"provides_fill_level_target_profile": false,
		"provides_usage_forecast":            false,
		"fill_level_range":                   numbers(0, 100),
	}
	return object{
		"message_type": "FRBC.SystemDescription",
		"valid_from":   time.Now().UTC().Format(time.RFC3339),
		"actuators":    []object{inverter},
		"storage":      storage,
	}
}

// report sends the description, then the fill level every ten seconds, until the session has ended.
func report(s *sidecar, session string, ended <-chan struct{}) {
	if err := s.send(session, description()); err != nil {
		fmt.Println("not taken:", err)
		return
	}
	level := 40.0
	for {
		status := object{"message_type": "FRBC.StorageStatus", "present_fill_level": level}
		if err := s.send(session, status); err != nil {
			fmt.Println("not taken:", err)
			return
		}
		fmt.Printf("reported %.1f %%\n", level)
		select {
		case <-ended:
			return
		case <-time.After(10 * time.Second):
			level = math.Min(100, level+0.5)
		}
	}
}

func fail(what ...any) {
	fmt.Fprintln(os.Stderr, what...)
	os.Exit(1)
}

func main() {
	if len(os.Args) < 2 {
		fail("usage: device HOME [URL]")
	}
	program := exec.Command("s2connect", "serve", "--json", "--home", os.Args[1])
	program.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for this program, which then ends it
	program.Stderr = os.Stderr
	input, err := program.StdinPipe()
	if err != nil {
		fail(err)
	}
	output, err := program.StdoutPipe()
	if err != nil {
		fail(err)
	}
	if err := program.Start(); err != nil {
		fail("s2connect cannot be started:", err)
	}
	s := &sidecar{input: input, waiting: map[float64]chan object{}}

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	go func() { <-stop; input.Close() }() // the end of its input stops the sidecar

	ended := map[string]chan struct{}{} // of each session
	lines := bufio.NewScanner(output)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var event object
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			fail(err)
		}
		session, _ := event["session"].(string)
		switch event["event"] {
		case "ready":
			if len(os.Args) > 2 {
				go pair(s, os.Args[2])
			}
		case "session_opened":
			fmt.Println("in session with", event["peer"].(object)["user_defined_name"])
			ended[session] = make(chan struct{})
			go func() {
				if err := s.send(session, details); err != nil {
					fmt.Println("not taken:", err)
				}
			}()
		case "session_closed":
			fmt.Println("the session has ended:", event["reason"])
			close(ended[session])
			delete(ended, session)
		case "message":
			message, _ := event["message"].(object)
			if event["direction"] == "received" && message["message_type"] == "SelectControlType" {
				fmt.Println("selected:", message["control_type"])
				if message["control_type"] == "FILL_RATE_BASED_CONTROL" {
					go report(s, session, ended[session])
				}
			}
		case "warning":
			fmt.Fprintln(os.Stderr, "warning:", event["reason"], event["text"])
		case "result":
			s.finish(event)
		}
	}
	s.finish(nil)
	if err := program.Wait(); err != nil {
		fail("s2connect:", err)
	}
}

// pair asks for the code and pairs.
func pair(s *sidecar, url string) {
	fmt.Print("Code shown by the energy manager: ")
	code, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil {
		return
	}
	if err := s.command("pair", object{"url": url, "code": strings.TrimSpace(code)}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		s.input.Close()
		return
	}
	fmt.Println("paired")
}
