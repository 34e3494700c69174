// example_test.go: what programs look like.

package attn_test

import (
	"errors"
	"fmt"
	"log"

	"attn"
)

// The attention of 4 queries over 6 keys, in 2 heads of 8.
func Example() {
	q, k, v, o := make([]float32, 2*4*8), make([]float32, 2*6*8), make([]float32, 2*6*8), make([]float32, 2*4*8)
	q[0], k[0], v[0] = 1, 2, 3
	err := attn.Attention(attn.View(q, 1, 2, 4, 8), attn.View(k, 1, 2, 6, 8), attn.View(v, 1, 2, 6, 8),
		attn.View(o, 1, 2, 4, 8), 0)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%.6f %.6f\n", o[0], o[8])
	// Output: 0.865715 0.500000
}

// A plan is made once and run often: here the steps of a decoder with a cache of keys and values.
func ExamplePlan_Run() {
	const heads, capacity, dim = 2, 8, 4
	context, err := attn.NewContext(attn.ContextOptions{NumThreads: 1})
	if err != nil {
		log.Fatal(err)
	}
	defer context.Close()
	plan, err := context.NewPlan(attn.PlanOptions{
		HeadsQ: heads, HeadDim: dim, MaxSeqlenQ: 1, MaxSeqlenK: capacity, Features: attn.SeqlensK,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer plan.Close()

	q, o := make([]float32, heads*dim), make([]float32, heads*dim)
	k, v := make([]float32, heads*capacity*dim), make([]float32, heads*capacity*dim)
	length := []int32{0}
	args := attn.RunArgs{
		Q: attn.View(q, 1, heads, 1, dim), O: attn.View(o, 1, heads, 1, dim), SeqlensK: length,
		K: attn.View(k, 1, heads, capacity, dim), V: attn.View(v, 1, heads, capacity, dim),
		Workspace: plan.NewWorkspace(),
	}
	for step := range 3 {
		v[step*dim] = float32(step) // head 0's value of this token; all keys are equal
		length[0]++
		if err := plan.Run(&args); err != nil {
			log.Fatal(err)
		}
		fmt.Println(o[0])
	}
	// Output:
	// 0
	// 0.5
	// 1
}

// Memory of [batch, seqlen, heads, dim] is used where it lies.
func ExampleTensor_Permute() {
	x := make([]float32, 1*5*2*8)
	view := attn.View(x, 1, 5, 2, 8).Permute(0, 2, 1, 3)
	fmt.Println(view.Shape(), view.DType())
	// Output: [1 2 5 8] f32
}

// Errors tell what is wrong, and can be told apart.
func ExampleError() {
	context, err := attn.NewContext(attn.ContextOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer context.Close()
	_, err = context.NewPlan(attn.PlanOptions{
		HeadsQ: 1, HeadDim: 5000, MaxSeqlenQ: 1, MaxSeqlenK: 1, Backend: "flash",
	})
	var failure *attn.Error
	fmt.Println(errors.Is(err, attn.ErrUnsupported), errors.As(err, &failure), failure.Status)
	// Output: true true ATTN_ERROR_UNSUPPORTED
}

// Parts of the keys, computed apart, are merged into the whole.
func ExampleContext_Merge() {
	context, err := attn.NewContext(attn.ContextOptions{NumThreads: 1})
	if err != nil {
		log.Fatal(err)
	}
	defer context.Close()
	o := []float32{0}
	scalar := func(x float32) attn.Tensor { return attn.View([]float32{x}, 1, 1, 1, 1) }
	lse := func(x float32) attn.Tensor { return attn.View([]float32{x}, 1, 1, 1) }
	err = context.Merge(&attn.MergeArgs{
		OParts:   []attn.Tensor{scalar(1), scalar(2)},
		LSEParts: []attn.Tensor{lse(0), lse(0)},
		O:        attn.View(o, 1, 1, 1, 1),
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(o[0])
	// Output: 1.5
}
