// reference_test.go: attention in float64, one row at a time, straight from the contract in attn.h.

package attn_test

import "math"

// problem is one sequence: q [heads, sq, d], k [headsKV, sk, d], v [headsKV, sk, dv], row-major, and
// what changes their scores.
type problem struct {
	heads, headsKV, sq, sk, d, dv int
	q, k, v                       []float32
	scale, softcap                float64
	causal                        bool
	left, right                   int // -1: no bound
	qStart, kStart                int
	bias                          func(h, i, j int) float64
	allows                        func(h, i, j int) bool
	slopes, sink                  []float32
}

// solve is o [heads, sq, dv] and lse [heads, sq].
func (p problem) solve() (o, lse []float64) {
	if p.scale == 0 {
		p.scale = 1 / math.Sqrt(float64(p.d))
	}
	o, lse = make([]float64, p.heads*p.sq*p.dv), make([]float64, p.heads*p.sq)
	for h := range p.heads {
		kv := h / (p.heads / p.headsKV)
		for i := range p.sq {
			row := h*p.sq + i
			scores := make([]float64, p.sk)
			top := math.Inf(-1)
			for j := range p.sk {
				scores[j] = p.score(h, kv, i, j)
				top = math.Max(top, scores[j])
			}
			sink := math.Inf(-1)
			if p.sink != nil {
				sink = float64(p.sink[h])
			}
			top = math.Max(top, sink)
			lse[row] = top
			if math.IsInf(top, -1) {
				continue
			}
			sum := math.Exp(sink - top)
			for _, s := range scores {
				sum += math.Exp(s - top)
			}
			lse[row] += math.Log(sum)
			for j, s := range scores {
				for c := range p.dv {
					o[row*p.dv+c] += math.Exp(s-lse[row]) * float64(p.v[(kv*p.sk+j)*p.dv+c])
				}
			}
		}
	}
	return o, lse
}

func (p problem) score(h, kv, i, j int) float64 {
	distance := p.qStart + i - p.kStart - j
	if p.causal && distance < 0 || p.left >= 0 && distance > p.left || p.right >= 0 && -distance > p.right ||
		p.allows != nil && !p.allows(h, i, j) {
		return math.Inf(-1)
	}
	s := 0.0
	for c := range p.d {
		s += float64(p.q[(h*p.sq+i)*p.d+c]) * float64(p.k[(kv*p.sk+j)*p.d+c])
	}
	s *= p.scale
	if p.softcap != 0 {
		s = p.softcap * math.Tanh(s/p.softcap)
	}
	if p.slopes != nil {
		s -= float64(p.slopes[h]) * math.Abs(float64(distance))
	}
	if p.bias != nil {
		s += p.bias(h, i, j)
	}
	return s
}
