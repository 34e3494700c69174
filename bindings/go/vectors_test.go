// vectors_test.go: the test vectors that all languages share (abi_tests/vectors/vectors.txt tells
// what they are).

package attn_test

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"attn"
)

// vectorCase is one case as the file has it.
type vectorCase struct {
	name    string
	options attn.PlanOptions
	args    attn.RunArgs
	outputs []*vectorOutput
}

type vectorOutput struct {
	name               string
	reset              func()
	bytes              func() []byte // of the memory
	at                 func(i int) float64
	shape, strides     []int
	first              int
	rows, columns      int
	values, tolerances []float64
}

// words are those of a line that is being read.
type words []string

func (w *words) next() string {
	word := (*w)[0]
	*w = (*w)[1:]
	return word
}

func (w *words) number(t *testing.T) int {
	t.Helper()
	value, err := strconv.Atoi(w.next())
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func (w *words) bytes(t *testing.T) []byte {
	t.Helper()
	word := w.next()
	if word == "-" {
		return nil
	}
	bytes, err := hex.DecodeString(word)
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

func (w *words) floats(t *testing.T) []float64 {
	t.Helper()
	bytes := w.bytes(t)
	values := make([]float64, len(bytes)/8)
	for i := range values {
		values[i] = math.Float64frombits(binary.LittleEndian.Uint64(bytes[8*i:]))
	}
	return values
}

func (c *vectorCase) plan(t *testing.T, w words) {
	t.Helper()
	o, name := &c.options, w.next()
	if name == "scale" || name == "softcap" {
		value, err := strconv.ParseFloat(w.next(), 32)
		if err != nil {
			t.Fatal(err)
		}
		*map[string]*float32{"scale": &o.Scale, "softcap": &o.Softcap}[name] = float32(value)
		return
	}
	value := w.number(t)
	ints := map[string]*int{
		"page_size": &o.PageSize, "block_q": &o.BlockQ, "block_k": &o.BlockK, "heads_q": &o.HeadsQ,
		"heads_kv": &o.HeadsKV, "head_dim": &o.HeadDim, "head_dim_v": &o.HeadDimV, "max_batch": &o.MaxBatch,
		"max_seqlen_q": &o.MaxSeqlenQ, "max_seqlen_k": &o.MaxSeqlenK, "max_total_q": &o.MaxTotalQ,
		"max_total_k": &o.MaxTotalK, "window_left": &o.WindowLeft, "window_right": &o.WindowRight,
	}
	dtypes := map[string]*attn.DType{
		"q_dtype": &o.QType, "k_dtype": &o.KType, "v_dtype": &o.VType, "o_dtype": &o.OType, "bias_dtype": &o.BiasType,
	}
	switch {
	case ints[name] != nil:
		*ints[name] = value
	case dtypes[name] != nil:
		*dtypes[name] = attn.DType(value)
	case name == "features":
		o.Features = attn.Features(value)
	case name == "q_layout":
		o.QLayout = attn.Layout(value)
	case name == "kv_layout":
		o.KVLayout = attn.Layout(value)
	case name == "alignment":
		o.Alignment = attn.Alignment(value)
	default:
		t.Fatalf("no plan field %s", name)
	}
}

func (c *vectorCase) tensor(t *testing.T, w words, output bool) {
	t.Helper()
	name, dtype := w.next(), attn.DType(w.number(t))
	v := &vectorOutput{name: name, shape: make([]int, w.number(t))}
	v.strides = make([]int, len(v.shape))
	for i := range v.shape {
		v.shape[i] = w.number(t)
	}
	for i := range v.strides {
		v.strides[i] = w.number(t)
	}
	v.first = w.number(t)
	count := w.number(t)
	bytes := make([]byte, count*dtype.Size())
	if output {
		c.outputs = append(c.outputs, v)
	} else if bytes = w.bytes(t); len(bytes) != count*dtype.Size() {
		t.Fatalf("%s has %d bytes", name, len(bytes))
	}
	switch dtype {
	case attn.F32:
		c.set(t, v, typed[float32](t, v, bytes, func(x float32) float64 { return float64(x) }))
	case attn.F16:
		c.set(t, v, typed[attn.Float16](t, v, bytes, func(x attn.Float16) float64 { return float64(x.Float32()) }))
	case attn.BF16:
		c.set(t, v, typed[attn.BFloat16](t, v, bytes, func(x attn.BFloat16) float64 { return float64(x.Float32()) }))
	case attn.F8E4M3:
		c.set(t, v, typed[attn.Float8E4M3](t, v, bytes, nil))
	case attn.I8:
		c.set(t, v, typed[int8](t, v, bytes, nil))
	case attn.U8:
		c.set(t, v, typed[uint8](t, v, bytes, nil))
	case attn.I32:
		c.set(t, v, typed[int32](t, v, bytes, nil))
	case attn.I64:
		c.set(t, v, typed[int64](t, v, bytes, nil))
	default:
		t.Fatalf("no dtype %d", dtype)
	}
}

// typed is the memory as a slice of its type: its elements are what the bytes hold.
func typed[T attn.Element](t *testing.T, v *vectorOutput, bytes []byte, widen func(T) float64) []T {
	t.Helper()
	var zero T
	memory := make([]T, len(bytes)/binary.Size(zero))
	if _, err := binary.Decode(bytes, binary.LittleEndian, memory); err != nil {
		t.Fatal(err)
	}
	v.reset = func() { clear(memory) }
	v.bytes = func() []byte {
		bytes, err := binary.Append(nil, binary.LittleEndian, memory)
		if err != nil {
			t.Fatal(err)
		}
		return bytes
	}
	v.at = func(i int) float64 { return widen(memory[i]) }
	return memory
}

// set puts a slice into the field of RunArgs that C calls so.
func (c *vectorCase) set(t *testing.T, v *vectorOutput, memory any) {
	t.Helper()
	a := &c.args
	if len(v.shape) == 1 && v.strides[0] == 1 {
		part := func(n int) (int, int) { return v.first, min(v.first+v.shape[0], n) }
		switch memory := memory.(type) {
		case []int32:
			from, to := part(len(memory))
			if field := map[string]*[]int32{"seqlens_q": &a.SeqlensQ, "seqlens_k": &a.SeqlensK,
				"cu_seqlens_q": &a.CuSeqlensQ, "cu_seqlens_k": &a.CuSeqlensK}[v.name]; field != nil {
				*field = memory[from:to]
				return
			}
		case []int64:
			from, to := part(len(memory))
			if field := map[string]*[]int64{"q_start": &a.QStart, "k_start": &a.KStart,
				"bias_k0": &a.BiasK0, "mask_k0": &a.MaskK0}[v.name]; field != nil {
				*field = memory[from:to]
				return
			}
		case []float32:
			if from, to := part(len(memory)); v.name == "sink" {
				a.Sink = memory[from:to]
				return
			}
		}
	}
	field := map[string]*attn.Tensor{
		"q": &a.Q, "k": &a.K, "v": &a.V, "o": &a.O, "lse": &a.LSE, "block_table": &a.BlockTable, "bias": &a.Bias,
		"mask": &a.Mask, "alibi_slopes": &a.AlibiSlopes, "block_mask": &a.BlockMask, "k_scale": &a.KScale,
		"v_scale": &a.VScale,
	}[v.name]
	if field == nil {
		t.Fatalf("no tensor %s of shape %v and strides %v", v.name, v.shape, v.strides)
	}
	switch memory := memory.(type) {
	case []float32:
		*field = attn.ViewStrided(memory, v.first, v.shape, v.strides)
	case []attn.Float16:
		*field = attn.ViewStrided(memory, v.first, v.shape, v.strides)
	case []attn.BFloat16:
		*field = attn.ViewStrided(memory, v.first, v.shape, v.strides)
	case []attn.Float8E4M3:
		*field = attn.ViewStrided(memory, v.first, v.shape, v.strides)
	case []int8:
		*field = attn.ViewStrided(memory, v.first, v.shape, v.strides)
	case []uint8:
		*field = attn.ViewStrided(memory, v.first, v.shape, v.strides)
	case []int32:
		*field = attn.ViewStrided(memory, v.first, v.shape, v.strides)
	case []int64:
		*field = attn.ViewStrided(memory, v.first, v.shape, v.strides)
	}
}

// compare holds the output against what is expected of it.
func (v *vectorOutput) compare(t *testing.T, target string) {
	t.Helper()
	if len(v.values) != v.rows*v.columns || len(v.tolerances) != v.rows {
		t.Fatalf("%s: %d values and %d tolerances for %d rows of %d", v.name, len(v.values), len(v.tolerances),
			v.rows, v.columns)
	}
	for n, want := range v.values {
		at, rest := v.first, n
		for i := len(v.shape) - 1; i >= 0; i-- {
			at += rest % v.shape[i] * v.strides[i]
			rest /= v.shape[i]
		}
		got, tolerance := v.at(at), v.tolerances[n/v.columns]
		if math.IsInf(want, 0) && got == want {
			continue
		}
		if !(math.Abs(got-want) <= tolerance) {
			t.Fatalf("%s: %s[%d] is %g instead of %g, tolerance %g", target, v.name, n, got, want, tolerance)
		}
	}
}

func (c *vectorCase) run(t *testing.T, context *attn.Context, backend string) string {
	info, err := context.Info()
	if err != nil {
		t.Fatal(err)
	}
	target := fmt.Sprintf("%s %s %s", c.name, backend, info.ISAName)
	c.options.Backend = backend
	plan, err := context.NewPlan(c.options)
	if errors.Is(err, attn.ErrUnsupported) && backend != "standard" {
		return target + " unsupported"
	} else if err != nil {
		t.Fatalf("%s: %v", target, err)
	}
	defer plan.Close()
	for _, v := range c.outputs {
		v.reset()
	}
	if err := plan.Run(&c.args); err != nil {
		t.Fatalf("%s: %v", target, err)
	}
	hash := fnv.New64a()
	for _, v := range c.outputs {
		v.compare(t, target)
		hash.Write(v.bytes())
	}
	return fmt.Sprintf("%s %016x", target, hash.Sum64())
}

func TestVectors(t *testing.T) {
	file, err := os.Open("../../abi_tests/vectors/vectors.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	probe := newContext(t, attn.ContextOptions{NumThreads: 1})
	isas, err := probe.ISAs()
	if err != nil {
		t.Fatal(err)
	}
	var contexts []*attn.Context
	for _, isa := range isas {
		if isa.Available {
			contexts = append(contexts, newContext(t, attn.ContextOptions{ISA: isa.ISA}))
		}
	}
	backends, err := probe.Backends()
	if err != nil {
		t.Fatal(err)
	}
	var c *vectorCase
	var results []string
	cases := 0
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		w := words(strings.Fields(lines.Text()))
		if len(w) == 0 || w[0] == "#" {
			continue
		}
		switch keyword := w.next(); keyword {
		case "case":
			c = &vectorCase{name: w.next()}
		case "plan":
			c.plan(t, w)
		case "input":
			c.tensor(t, w, false)
		case "output":
			c.tensor(t, w, true)
		case "expect":
			name, known := w.next(), false
			for _, v := range c.outputs {
				if v.name == name {
					known = true
					v.rows, v.columns = w.number(t), w.number(t)
					v.values, v.tolerances = w.floats(t), w.floats(t)
				}
			}
			if !known {
				t.Fatalf("expect %s: no such output", name)
			}
		case "end":
			cases++
			for _, context := range contexts {
				for _, backend := range backends {
					if backend.Available {
						results = append(results, c.run(t, context, backend.Name))
					}
				}
			}
		default:
			t.Fatalf("no keyword %s", keyword)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if cases == 0 || len(results) < cases {
		t.Fatalf("%d results of %d cases", len(results), cases)
	}
	if folder := os.Getenv("ATTN_VECTORS_OUT"); folder != "" {
		text := []byte(strings.Join(results, "\n") + "\n")
		if err := os.WriteFile(filepath.Join(folder, "go.txt"), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
