// float16.go: element types that Go lacks, as the bits of their formats.

package attn

import "math"

// Float16 is an IEEE 754 binary16 number.
type Float16 uint16

// BFloat16 is the upper half of a float32.
type BFloat16 uint16

// Float8E4M3 is an 8-bit number of the OCP E4M3 format: no infinities, one NaN pattern. Keys and
// values come in it, with scales.
type Float8E4M3 uint8

// ToFloat16 rounds to nearest, ties to even; what is too large becomes infinite.
func ToFloat16(f float32) Float16 {
	bits := math.Float32bits(f)
	sign := Float16(bits >> 16 & 0x8000)
	magnitude := bits & 0x7fffffff
	switch {
	case magnitude > 0x7f800000: // NaN, which stays one
		return sign | 0x7e00
	case magnitude >= 0x477ff000: // 65520, halfway from the largest number to the next
		return sign | 0x7c00
	case magnitude < 0x38800000: // less than 2^-14: a multiple of 2^-24
		return sign | Float16(math.RoundToEven(float64(math.Float32frombits(magnitude))*(1<<24)))
	}
	// The exponent's bias goes from 127 to 15; 13 bits of the fraction go.
	rounded := magnitude - 112<<23 + 0xfff + magnitude>>13&1
	return sign | Float16(rounded>>13)
}

// Float32 is exact.
func (h Float16) Float32() float32 {
	sign := uint32(h&0x8000) << 16
	magnitude := uint32(h & 0x7fff)
	switch {
	case magnitude >= 0x7c00: // infinite or NaN
		return math.Float32frombits(sign | 0x7f800000 | magnitude&0x3ff<<13)
	case magnitude < 0x400: // a multiple of 2^-24
		return math.Float32frombits(sign | math.Float32bits(float32(magnitude)/(1<<24)))
	}
	return math.Float32frombits(sign | (magnitude<<13 + 112<<23))
}

// ToBFloat16 rounds to nearest, ties to even.
func ToBFloat16(f float32) BFloat16 {
	bits := math.Float32bits(f)
	if f != f {
		return BFloat16(bits>>16 | 0x40) // stays NaN
	}
	return BFloat16((bits + 0x7fff + bits>>16&1) >> 16)
}

// Float32 is exact.
func (b BFloat16) Float32() float32 { return math.Float32frombits(uint32(b) << 16) }
