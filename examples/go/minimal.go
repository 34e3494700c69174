// minimal.go: the attention of 4 queries over 6 keys, in 2 heads of 8
package main

import (
	"fmt"
	"log"

	"attn"
)

func main() {
	q, k, v, o := make([]float32, 64), make([]float32, 96), make([]float32, 96), make([]float32, 64)
	q[0], k[0], v[0] = 1, 2, 3
	err := attn.Attention(
		attn.View(q, 1, 2, 4, 8), // [batch, heads, seqlen, head_dim]
		attn.View(k, 1, 2, 6, 8),
		attn.View(v, 1, 2, 6, 8),
		attn.View(o, 1, 2, 4, 8),
		0, // or attn.Causal
	)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%.6f %.6f\n", o[0], o[8])
}
