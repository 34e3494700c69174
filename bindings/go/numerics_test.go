// numerics_test.go: every feature, layout and type against the float64 reference.

package attn_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"attn"
)

// newProblem is a random problem whose last query sees the last key.
func newProblem(r source, heads, headsKV, sq, sk, d, dv int) problem {
	return problem{
		heads: heads, headsKV: headsKV, sq: sq, sk: sk, d: d, dv: dv,
		q: r.normal(heads * sq * d), k: r.normal(headsKV * sk * d), v: r.normal(headsKV * sk * dv),
		left: -1, right: -1, qStart: sk - sq,
	}
}

// options are those of a plan that the problem fits in.
func (p problem) options() attn.PlanOptions {
	return attn.PlanOptions{
		HeadsQ: p.heads, HeadsKV: p.headsKV, HeadDim: p.d, HeadDimV: p.dv,
		MaxSeqlenQ: p.sq, MaxSeqlenK: p.sk,
	}
}

// args are views of the problem, with outputs full of what must not stay.
func (p problem) args() (args attn.RunArgs, o, lse []float32) {
	o = filled(p.heads*p.sq*p.dv, float32(math.NaN()))
	lse = filled(p.heads*p.sq, float32(math.NaN()))
	return attn.RunArgs{
		Q:   attn.View(p.q, 1, p.heads, p.sq, p.d),
		K:   attn.View(p.k, 1, p.headsKV, p.sk, p.d),
		V:   attn.View(p.v, 1, p.headsKV, p.sk, p.dv),
		O:   attn.View(o, 1, p.heads, p.sq, p.dv),
		LSE: attn.View(lse, 1, p.heads, p.sq),
	}, o, lse
}

func (p problem) check(t *testing.T, o, lse []float32, tolerance float64) {
	t.Helper()
	wantO, wantLSE := p.solve()
	near(t, "o", o, wantO, tolerance)
	near(t, "lse", lse, wantLSE, tolerance*10)
}

const f32Tolerance = 4e-5 // 1e-5 * max|V|

func TestAttention(t *testing.T) {
	p := newProblem(newSource(), 4, 2, 5, 9, 8, 6)
	for _, causal := range []bool{false, true} {
		p.causal = causal
		args, o, lse := p.args()
		var features attn.Features
		if causal {
			features = attn.Causal
		}
		if err := attn.Attention(args.Q, args.K, args.V, args.O, features); err != nil {
			t.Fatal(err)
		}
		want, _ := p.solve()
		near(t, "o", o, want, f32Tolerance)
		if !math.IsNaN(float64(lse[0])) {
			t.Fatal("lse was written")
		}
	}
}

// TestFeatures sets one feature after the other, then all that go together, on both backends.
func TestFeatures(t *testing.T) {
	context := newContext(t, attn.ContextOptions{NumThreads: 2})
	const heads, sq, sk = 4, 7, 13
	r := newSource()
	bias := r.normal(heads * sq * sk)
	mask := make([]bool, sq*sk)
	for i := range mask {
		mask[i] = r.IntN(3) > 0
	}
	blocks := []uint8{1, 0, 1, 0, 1, 1, 0, 1, 1, 1} // [2, 5] blocks of 4 queries and 3 keys
	slopes, sink := []float32{0.5, 0.25, 0.125, 0.0625}, r.normal(heads)
	type change func(*problem, *attn.PlanOptions, *attn.RunArgs)
	changes := map[string]change{
		"plain": func(*problem, *attn.PlanOptions, *attn.RunArgs) {},
		"causal": func(p *problem, o *attn.PlanOptions, _ *attn.RunArgs) {
			p.causal, o.Features = true, o.Features|attn.Causal
		},
		"window": func(p *problem, o *attn.PlanOptions, _ *attn.RunArgs) {
			p.left, p.right, o.WindowLeft, o.WindowRight = 4, 2, 4, 2
			o.Features |= attn.WindowLeft | attn.WindowRight
		},
		"top left": func(p *problem, o *attn.PlanOptions, _ *attn.RunArgs) {
			p.qStart, p.causal = 0, true
			o.Alignment, o.Features = attn.TopLeft, o.Features|attn.Causal
		},
		"scale":   func(p *problem, o *attn.PlanOptions, _ *attn.RunArgs) { p.scale, o.Scale = 0.25, 0.25 },
		"softcap": func(p *problem, o *attn.PlanOptions, _ *attn.RunArgs) { p.softcap, o.Softcap = 1.5, 1.5 },
		"positions": func(p *problem, o *attn.PlanOptions, a *attn.RunArgs) {
			p.qStart, p.kStart, p.causal = 9, 3, true
			a.QStart, a.KStart = []int64{9}, []int64{3}
			o.Features |= attn.QStart | attn.KStart | attn.Causal
		},
		"bias": func(p *problem, o *attn.PlanOptions, a *attn.RunArgs) {
			p.bias = func(h, i, j int) float64 { return float64(bias[(h*sq+i)*sk+j]) }
			a.Bias, o.Features = attn.View(bias, 1, heads, sq, sk), o.Features|attn.Bias
		},
		"bias range": func(p *problem, o *attn.PlanOptions, a *attn.RunArgs) {
			p.bias = func(_, _, j int) float64 {
				if j < 2 || j >= 5 {
					return 0
				}
				return float64(bias[j-2])
			}
			a.Bias, a.BiasK0 = attn.View(bias[:3], 1, 1, 1, 3), []int64{2}
			o.Features |= attn.Bias | attn.BiasRange
		},
		"mask": func(p *problem, o *attn.PlanOptions, a *attn.RunArgs) {
			p.allows = func(_, i, j int) bool { return mask[i*sk+j] }
			a.Mask, o.Features = attn.View(mask, 1, 1, sq, sk), o.Features|attn.Mask
		},
		"mask range": func(p *problem, o *attn.PlanOptions, a *attn.RunArgs) {
			p.allows = func(_, i, j int) bool { return j < 6 || j >= 10 || mask[i*4+j-6] }
			a.Mask, a.MaskK0 = attn.View(mask[:sq*4], 1, 1, sq, 4), []int64{6}
			o.Features |= attn.Mask | attn.MaskRange
		},
		"alibi": func(p *problem, o *attn.PlanOptions, a *attn.RunArgs) {
			p.slopes, a.AlibiSlopes, o.Features = slopes, attn.View(slopes, heads), o.Features|attn.Alibi
		},
		"sink": func(p *problem, o *attn.PlanOptions, a *attn.RunArgs) {
			p.sink, a.Sink, o.Features = sink, sink, o.Features|attn.Sink
		},
		"block mask": func(p *problem, o *attn.PlanOptions, a *attn.RunArgs) {
			p.allows = func(_, i, j int) bool { return blocks[i/4*5+j/3] != 0 }
			a.BlockMask, o.BlockQ, o.BlockK = attn.View(blocks, 1, 1, 2, 5), 4, 3
			o.Features |= attn.BlockMask
		},
	}
	all := []string{"window", "scale", "softcap", "positions", "bias", "mask", "alibi", "sink"}
	changes["all"] = func(p *problem, o *attn.PlanOptions, a *attn.RunArgs) {
		for _, name := range all {
			changes[name](p, o, a)
		}
	}
	for name, change := range changes {
		for _, backend := range []string{"standard", "flash"} {
			t.Run(name+" "+backend, func(t *testing.T) {
				p := newProblem(r, heads, 2, sq, sk, 8, 5)
				options := p.options()
				options.Backend = backend
				args, o, lse := p.args()
				change(&p, &options, &args)
				plan := newPlan(t, context, options)
				if err := plan.Run(&args); err != nil {
					t.Fatal(err)
				}
				p.check(t, o, lse, f32Tolerance)
			})
		}
	}
}

func TestLengths(t *testing.T) {
	context := newContext(t, attn.ContextOptions{NumThreads: 2})
	r := newSource()
	const heads, sq, sk, d = 2, 6, 8, 4
	p := newProblem(r, heads, heads, sq, sk, d, d)
	second := newProblem(r, heads, heads, sq, sk, d, d)
	options := p.options()
	options.MaxBatch, options.Features = 2, attn.SeqlensQ|attn.SeqlensK|attn.Causal
	o, lse := filled(2*heads*sq*d, float32(7)), filled(2*heads*sq, float32(7))
	err := newPlan(t, context, options).Run(&attn.RunArgs{
		Q:        attn.View(append(slices.Clone(p.q), second.q...), 2, heads, sq, d),
		K:        attn.View(append(slices.Clone(p.k), second.k...), 2, heads, sk, d),
		V:        attn.View(append(slices.Clone(p.v), second.v...), 2, heads, sk, d),
		O:        attn.View(o, 2, heads, sq, d),
		LSE:      attn.View(lse, 2, heads, sq),
		SeqlensQ: []int32{4, 6}, SeqlensK: []int32{7, 8},
	})
	if err != nil {
		t.Fatal(err)
	}
	second.causal = true
	second.check(t, o[len(o)/2:], lse[len(lse)/2:], f32Tolerance)
	// The first: query rows 4 and 5 do not exist; what keys past 7 hold does not matter.
	p.qStart, p.causal = 3, true
	p.allows = func(_, i, j int) bool { return i < 4 && j < 7 }
	p.check(t, o[:len(o)/2], lse[:len(lse)/2], f32Tolerance)
}

// TestPacked holds two packed sequences against each alone.
func TestPacked(t *testing.T) {
	context := newContext(t, attn.ContextOptions{NumThreads: 2})
	r := newSource()
	const heads, d, total, totalK = 2, 4, 9, 12
	q, k, v := r.normal(heads*total*d), r.normal(heads*totalK*d), r.normal(heads*totalK*d)
	o, lse := make([]float32, len(q)), make([]float32, heads*total)
	plan := newPlan(t, context, attn.PlanOptions{
		HeadsQ: heads, HeadDim: d, MaxBatch: 2, MaxSeqlenQ: 6, MaxSeqlenK: 8, MaxTotalQ: total, MaxTotalK: totalK,
		QLayout: attn.PackedLayout, KVLayout: attn.PackedLayout, Features: attn.Causal,
	})
	err := plan.Run(&attn.RunArgs{
		Q: attn.View(q, 1, heads, total, d), K: attn.View(k, 1, heads, totalK, d),
		V: attn.View(v, 1, heads, totalK, d), O: attn.View(o, 1, heads, total, d),
		LSE:        attn.View(lse, 1, heads, total),
		CuSeqlensQ: []int32{0, 3, 9}, CuSeqlensK: []int32{0, 4, 12},
	})
	if err != nil {
		t.Fatal(err)
	}
	// rows are those [from, to) of each head.
	rows := func(x []float32, extent, width, from, to int) []float32 {
		var part []float32
		for h := range heads {
			part = append(part, x[(h*extent+from)*width:(h*extent+to)*width]...)
		}
		return part
	}
	for _, s := range [][4]int{{0, 3, 0, 4}, {3, 9, 4, 12}} {
		p := problem{heads: heads, headsKV: heads, sq: s[1] - s[0], sk: s[3] - s[2], d: d, dv: d,
			q: rows(q, total, d, s[0], s[1]), k: rows(k, totalK, d, s[2], s[3]),
			v: rows(v, totalK, d, s[2], s[3]), left: -1, right: -1, causal: true}
		p.qStart = p.sk - p.sq
		p.check(t, rows(o, total, d, s[0], s[1]), rows(lse, total, 1, s[0], s[1]), f32Tolerance)
	}
}

// TestPaged scatters the keys of a sequence over pages, the unused of which hold NaN.
func TestPaged(t *testing.T) {
	context := newContext(t, attn.ContextOptions{NumThreads: 2})
	const heads, sq, sk, d, page, pages = 2, 3, 10, 4, 4, 5
	p := newProblem(newSource(), heads, heads, sq, sk, d, d)
	table := []int32{3, 0, 4, 99} // the last entry is not used
	scatter := func(x []float32) attn.Tensor {
		memory := filled(pages*heads*page*d, float32(math.NaN()))
		for h := range heads {
			for j := range sk {
				at := ((int(table[j/page])*heads+h)*page + j%page) * d
				copy(memory[at:at+d], x[(h*sk+j)*d:])
			}
		}
		return attn.View(memory, pages, heads, page, d)
	}
	options := p.options()
	options.KVLayout, options.PageSize, options.MaxSeqlenK = attn.PagedLayout, page, 16
	args, o, lse := p.args()
	args.K, args.V = scatter(p.k), scatter(p.v)
	args.BlockTable, args.SeqlensK = attn.View(table, 1, 4), []int32{sk}
	if err := newPlan(t, context, options).Run(&args); err != nil {
		t.Fatal(err)
	}
	p.check(t, o, lse, f32Tolerance)
}

// TestStrides: [batch, seqlen, heads, dim] memory, keys backwards, a broadcast value.
func TestStrides(t *testing.T) {
	const heads, sq, sk, d = 2, 3, 5, 4
	p := newProblem(newSource(), heads, heads, sq, sk, d, d)
	q := make([]float32, len(p.q))
	for h := range heads {
		for i := range sq {
			copy(q[(i*heads+h)*d:][:d], p.q[(h*sq+i)*d:])
		}
	}
	keys := slices.Clone(p.k)
	for h := range heads { // key j of the problem is row sk-1-j of the memory
		for j := range sk {
			copy(p.k[(h*sk+j)*d:][:d], keys[(h*sk+sk-1-j)*d:])
			copy(p.v[(h*sk+j)*d:][:d], p.v[:d])
		}
	}
	args, o, _ := p.args()
	args.Q = attn.View(q, 1, sq, heads, d).Permute(0, 2, 1, 3)
	args.K = attn.ViewStrided(keys, (sk-1)*d, []int{1, heads, sk, d}, []int{0, sk * d, -d, 1})
	args.V = attn.ViewStrided(p.v[:d], 0, []int{1, heads, sk, d}, []int{0, 0, 0, 1})
	if got := args.Q.Shape(); !slices.Equal(got, []int{1, heads, sq, d}) || args.Q.DType() != attn.F32 {
		t.Fatal(got, args.Q.DType())
	}
	if err := attn.Attention(args.Q, args.K, args.V, args.O, 0); err != nil {
		t.Fatal(err)
	}
	want, _ := p.solve()
	near(t, "o", o, want, f32Tolerance)
}

// TestHalfTypes: inputs that are exact in the type; the error is that of rounding o.
func TestHalfTypes(t *testing.T) {
	context := newContext(t, attn.ContextOptions{NumThreads: 2})
	p := newProblem(newSource(), 2, 2, 5, 9, 8, 8)
	t.Run("f16", func(t *testing.T) {
		halfType(t, context, p, attn.F16, attn.ToFloat16, attn.Float16.Float32, 4e-3)
	})
	t.Run("bf16", func(t *testing.T) {
		halfType(t, context, p, attn.BF16, attn.ToBFloat16, attn.BFloat16.Float32, 3e-2)
	})
}

func halfType[T attn.Float16 | attn.BFloat16](t *testing.T, context *attn.Context, p problem,
	dtype attn.DType, to func(float32) T, from func(T) float32, tolerance float64) {
	// round is x in the type, and what it then is.
	round := func(x []float32) ([]T, []float32) {
		narrow, wide := make([]T, len(x)), make([]float32, len(x))
		for i := range x {
			narrow[i] = to(x[i])
			wide[i] = from(narrow[i])
		}
		return narrow, wide
	}
	args, _, lse := p.args()
	var q, k, v []T
	q, p.q = round(p.q)
	k, p.k = round(p.k)
	v, p.v = round(p.v)
	o := make([]T, len(q))
	args.Q, args.O = attn.View(q, 1, 2, 5, 8), attn.View(o, 1, 2, 5, 8)
	args.K, args.V = attn.View(k, 1, 2, 9, 8), attn.View(v, 1, 2, 9, 8)
	options := p.options()
	options.QType = dtype
	if err := newPlan(t, context, options).Run(&args); err != nil {
		t.Fatal(err)
	}
	wide := make([]float32, len(o))
	for i := range o {
		wide[i] = from(o[i])
	}
	p.check(t, wide, lse, tolerance)
	// The same with o in f32.
	options.OType = attn.F32
	args.O = attn.View(wide, 1, 2, 5, 8)
	if err := newPlan(t, context, options).Run(&args); err != nil {
		t.Fatal(err)
	}
	p.check(t, wide, lse, f32Tolerance)
}

// TestQuantised: int8 keys and fp8 values with scales.
func TestQuantised(t *testing.T) {
	context := newContext(t, attn.ContextOptions{NumThreads: 2})
	const heads, sq, sk, d = 2, 3, 7, 8
	r := newSource()
	p := newProblem(r, heads, heads, sq, sk, d, d)
	k, v := make([]int8, len(p.k)), make([]attn.Float8E4M3, len(p.v))
	kScale, vScale := []float32{0.01, 0.02}, make([]float32, heads*sk)
	for i := range vScale {
		vScale[i] = 0.5 + rand.Float32()
	}
	for i := range k {
		k[i] = int8(r.IntN(255) - 127)
		p.k[i] = float32(k[i]) * kScale[i/(sk*d)]
		v[i] = attn.Float8E4M3(r.IntN(0x7f) | r.IntN(2)<<7) // no NaN
		p.v[i] = e4m3(v[i]) * vScale[i/d]
	}
	options := p.options()
	options.KType, options.VType = attn.I8, attn.F8E4M3
	args, o, lse := p.args()
	args.K, args.V = attn.View(k, 1, heads, sk, d), attn.View(v, 1, heads, sk, d)
	args.KScale, args.VScale = attn.View(kScale, 1, heads, 1), attn.View(vScale, 1, heads, sk)
	if err := newPlan(t, context, options).Run(&args); err != nil {
		t.Fatal(err)
	}
	p.check(t, o, lse, 1e-5*448*1.5)
}

// e4m3 is what an 8-bit number is: 4 bits of exponent with bias 7, 3 of fraction.
func e4m3(x attn.Float8E4M3) float32 {
	exponent, fraction := int(x>>3&15), float64(x&7)
	value := math.Ldexp(fraction, -9)
	if exponent > 0 {
		value = math.Ldexp(8+fraction, exponent-10)
	}
	if x&0x80 != 0 {
		value = -value
	}
	return float32(value)
}

// TestMerge splits the keys in three and merges, into memory of its own and over the first part.
func TestMerge(t *testing.T) {
	context := newContext(t, attn.ContextOptions{NumThreads: 2})
	const heads, sq, sk, d = 2, 4, 9, 4
	p := newProblem(newSource(), heads, heads, sq, sk, d, d)
	p.sink = []float32{0.3, -0.7}
	var merge attn.MergeArgs
	plan := newPlan(t, context, p.options())
	for from := 0; from < sk; from += 3 {
		args, _, _ := p.args()
		shape, strides := []int{1, heads, 3, d}, []int{0, sk * d, d, 1}
		args.K = attn.ViewStrided(p.k, from*d, shape, strides)
		args.V = attn.ViewStrided(p.v, from*d, shape, strides)
		if err := plan.Run(&args); err != nil {
			t.Fatal(err)
		}
		merge.OParts, merge.LSEParts = append(merge.OParts, args.O), append(merge.LSEParts, args.LSE)
	}
	args, o, lse := p.args()
	merge.O, merge.LSE, merge.Sink = args.O, args.LSE, p.sink
	if err := context.Merge(&merge); err != nil {
		t.Fatal(err)
	}
	p.check(t, o, lse, f32Tolerance)

	half := make([]attn.Float16, len(o))
	merge.O, merge.LSE, merge.Sink = attn.View(half, 1, heads, sq, d), attn.Tensor{}, nil
	if err := context.Merge(&merge); err != nil {
		t.Fatal(err)
	}
	p.sink = nil
	want, _ := p.solve()
	for i := range half {
		o[i] = half[i].Float32()
	}
	near(t, "o", o, want, 4e-3)
}

func TestEmpty(t *testing.T) {
	context := newContext(t, attn.ContextOptions{NumThreads: 1})
	p := newProblem(newSource(), 1, 1, 2, 3, 4, 4)
	plan := newPlan(t, context, p.options())
	args, o, lse := p.args()
	args.K, args.V = attn.View[float32](nil, 1, 1, 0, 4), attn.View([]float32{}, 1, 1, 0, 4)
	if err := plan.Run(&args); err != nil {
		t.Fatal(err)
	}
	near(t, "o", o, make([]float64, len(o)), 0)
	near(t, "lse", lse, filled(2, math.Inf(-1)), 0)
}

// TestHalfConversions: all 65536 numbers of each type there and back, and the rounding between them.
func TestHalfConversions(t *testing.T) {
	for bits := range 1 << 16 {
		h, b := attn.Float16(bits), attn.BFloat16(bits)
		if f := h.Float32(); f != f {
			if back := attn.ToFloat16(f).Float32(); back == back {
				t.Fatalf("%#x is NaN, and not when it comes back", bits)
			}
		} else if attn.ToFloat16(f) != h {
			t.Fatalf("f16 %#x is %g, which becomes %#x", bits, f, attn.ToFloat16(f))
		}
		if f := b.Float32(); f != f {
			if back := attn.ToBFloat16(f).Float32(); back == back {
				t.Fatalf("%#x is NaN, and not when it comes back", bits)
			}
		} else if attn.ToBFloat16(f) != b {
			t.Fatalf("bf16 %#x is %g, which becomes %#x", bits, f, attn.ToBFloat16(f))
		}
	}
	for bits := range 0x7bff { // finite neighbours, the subnormal ones too
		low, high := attn.Float16(bits).Float32(), attn.Float16(bits+1).Float32()
		checkRounding(t, low, high, attn.Float16(bits), attn.ToFloat16)
	}
	for bits := range 0x7f7f {
		low, high := attn.BFloat16(bits).Float32(), attn.BFloat16(bits+1).Float32()
		checkRounding(t, low, high, attn.BFloat16(bits), attn.ToBFloat16)
	}
	for f, want := range map[float32]attn.Float16{
		1: 0x3c00, -2: 0xc000, 65504: 0x7bff, 65519: 0x7bff, 65520: 0x7c00, 1e9: 0x7c00, -1e9: 0xfc00,
		1.0 / (1 << 24): 1, 1.0 / (1 << 25): 0, 1e-30: 0,
	} {
		if got := attn.ToFloat16(f); got != want {
			t.Errorf("ToFloat16(%g) is %#x instead of %#x", f, got, want)
		}
	}
}

// checkRounding looks at the middle of two neighbours and just beside it.
func checkRounding[T attn.Float16 | attn.BFloat16](t *testing.T, low, high float32, bits T, to func(float32) T) {
	t.Helper()
	middle := low + (high-low)/2
	inf := float32(math.Inf(1))
	for f, want := range map[float32]T{
		math.Nextafter32(middle, -inf): bits, middle: bits + bits&1, math.Nextafter32(middle, inf): bits + 1,
	} {
		if to(f) != want {
			t.Fatalf("%g between %g and %g becomes %#x instead of %#x", f, low, high, to(f), want)
		}
	}
}
