/* The heads of MessagePack values: what a value is by its first byte, and the number that belongs to it.

   first byte   what                       number
   00 .. 7f     integer                    the byte
   80 .. 8f     map                        pairs, in the byte
   90 .. 9f     array                      items, in the byte
   a0 .. bf     text                       bytes, in the byte
   c0 c2 c3     nil, false, true           0, 0, 1
   c1           never used
   c4 c5 c6     bytes                      their number, in 1, 2, 4 bytes
   c7 c8 c9     extension                  bytes after its type byte, in 1, 2, 4 bytes
   ca cb        float32, float64           its bits
   cc .. cf     unsigned integer           of 1, 2, 4, 8 bytes
   d0 .. d3     signed integer             of 1, 2, 4, 8 bytes
   d4 .. d8     extension                  1, 2, 4, 8, 16 bytes after its type byte
   d9 da db     text                       bytes, in 1, 2, 4 bytes
   dc dd        array                      items, in 2, 4 bytes
   de df        map                        pairs, in 2, 4 bytes
   e0 .. ff     integer                    the byte, as -32 to -1

   All numbers are big-endian. A head is read whole even where the record ends before: behind it are zeros (simd.h), and
   the reader compares where it is with the record's end. */

#ifndef PENSTOCK_PACK_H
#define PENSTOCK_PACK_H

#include <stdint.h>

#include "simd.h"

enum penstock_family {
    PENSTOCK_NEVER, PENSTOCK_NIL, PENSTOCK_BOOL, PENSTOCK_UNSIGNED, PENSTOCK_SIGNED, PENSTOCK_FLOAT32, PENSTOCK_FLOAT64,
    PENSTOCK_TEXT, PENSTOCK_BYTES, PENSTOCK_ARRAY, PENSTOCK_MAP, PENSTOCK_EXTENSION
};

struct penstock_form {
    uint8_t family;
    uint8_t size;   /* bytes of the number after the first byte */
    uint8_t bits;   /* the number in the first byte, when there are none */
    uint8_t more;   /* what is added to that */
};

#define PENSTOCK_4(...) __VA_ARGS__, __VA_ARGS__, __VA_ARGS__, __VA_ARGS__
#define PENSTOCK_16(...) PENSTOCK_4(PENSTOCK_4(__VA_ARGS__))
#define PENSTOCK_SIZED(family) {family, 1, 0, 0}, {family, 2, 0, 0}, {family, 4, 0, 0}

static const struct penstock_form penstock_forms[256] = {
    PENSTOCK_4(PENSTOCK_16({PENSTOCK_UNSIGNED, 0, 0x7f, 0})), PENSTOCK_4(PENSTOCK_16({PENSTOCK_UNSIGNED, 0, 0x7f, 0})),
    PENSTOCK_16({PENSTOCK_MAP, 0, 0x0f, 0}), PENSTOCK_16({PENSTOCK_ARRAY, 0, 0x0f, 0}),
    PENSTOCK_16({PENSTOCK_TEXT, 0, 0x1f, 0}), PENSTOCK_16({PENSTOCK_TEXT, 0, 0x1f, 0}),
    {PENSTOCK_NIL, 0, 0, 0}, {PENSTOCK_NEVER, 0, 0, 0}, {PENSTOCK_BOOL, 0, 1, 0}, {PENSTOCK_BOOL, 0, 1, 0},
    PENSTOCK_SIZED(PENSTOCK_BYTES), PENSTOCK_SIZED(PENSTOCK_EXTENSION),
    {PENSTOCK_FLOAT32, 4, 0, 0}, {PENSTOCK_FLOAT64, 8, 0, 0},
    PENSTOCK_SIZED(PENSTOCK_UNSIGNED), {PENSTOCK_UNSIGNED, 8, 0, 0},
    PENSTOCK_SIZED(PENSTOCK_SIGNED), {PENSTOCK_SIGNED, 8, 0, 0},
    {PENSTOCK_EXTENSION, 0, 0, 1}, {PENSTOCK_EXTENSION, 0, 0, 2}, {PENSTOCK_EXTENSION, 0, 0, 4},
    {PENSTOCK_EXTENSION, 0, 0, 8}, {PENSTOCK_EXTENSION, 0, 0, 16},
    PENSTOCK_SIZED(PENSTOCK_TEXT),
    {PENSTOCK_ARRAY, 2, 0, 0}, {PENSTOCK_ARRAY, 4, 0, 0}, {PENSTOCK_MAP, 2, 0, 0}, {PENSTOCK_MAP, 4, 0, 0},
    PENSTOCK_16({PENSTOCK_SIGNED, 0, 0xff, 0}), PENSTOCK_16({PENSTOCK_SIGNED, 0, 0xff, 0}),
};

/* A number of `nbytes`, 1 to 8. */
static inline uint64_t penstock_big_endian(const uint8_t *at, int nbytes) {
    return __builtin_bswap64(penstock_load8(at)) >> (64 - 8 * nbytes);
}

/* After the head at `at`. A signed number is extended to 64 bits; a float's bits stay its own. */
static inline const uint8_t *penstock_head(const uint8_t *at, uint8_t *family, uint64_t *number) {
    const struct penstock_form form = penstock_forms[*at];
    uint64_t bits = form.size ? penstock_big_endian(at + 1, form.size) : (uint64_t)(*at & form.bits) + form.more;
    if (form.family == PENSTOCK_SIGNED) {
        int unused = form.size ? 64 - 8 * form.size : 56;
        bits = (uint64_t)((int64_t)(bits << unused) >> unused);
    }
    *family = form.family;
    *number = bits;
    return at + 1 + form.size;
}

/* Whether all bytes are ASCII; there are 16 readable ones for each 16 begun. */
static inline int penstock_ascii(const uint8_t *at, size_t length) {
#ifdef PENSTOCK_SSE2
    while (length >= 16) {
        if (_mm_movemask_epi8(_mm_loadu_si128((const __m128i *)at))) return 0;
        at += 16, length -= 16;
    }
    return (_mm_movemask_epi8(_mm_loadu_si128((const __m128i *)at)) & ((1u << length) - 1)) == 0;
#else
    uint64_t seen = 0;
    while (length >= 8) {
        seen |= penstock_load8(at);
        at += 8, length -= 8;
    }
    while (length) seen |= at[--length];
    return (seen & UINT64_C(0x8080808080808080)) == 0;
#endif
}

/* The first byte before `end` that JSON text has escaped, or `end`. */
static inline const uint8_t *penstock_plain_end(const uint8_t *at, const uint8_t *end) {
    while (at < end && *at >= 0x20 && *at != '"' && *at != '\\') at++;
    return at;
}

#endif
