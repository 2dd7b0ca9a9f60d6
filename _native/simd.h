/* Scans of JSON text, 16 bytes at a time where the machine has SSE2 and 8 at a time elsewhere.

   Text is always a copy followed by PENSTOCK_PADDING bytes of zeros. A zero ends every token, so that no scan needs a
   bound; what is read past the end is thrown away. */

#ifndef PENSTOCK_SIMD_H
#define PENSTOCK_SIMD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__) && !defined(PENSTOCK_PORTABLE)
#include <emmintrin.h>
#define PENSTOCK_SSE2 1
#endif

#define PENSTOCK_PADDING 64

static inline uint64_t penstock_load8(const uint8_t *at) {
    uint64_t word;
    memcpy(&word, at, 8);
    return word;
}

/* The first byte that is a quote, a backslash or a control character; `*high` says whether any before it is not ASCII. */
#ifdef PENSTOCK_SSE2
static inline const uint8_t *penstock_string_end(const uint8_t *at, int *high) {
    const __m128i quote = _mm_set1_epi8('"'), backslash = _mm_set1_epi8('\\'), control = _mm_set1_epi8(0x1f);
    unsigned seen = 0;
    for (;;) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)at);
        __m128i found = _mm_or_si128(
            _mm_or_si128(_mm_cmpeq_epi8(bytes, quote), _mm_cmpeq_epi8(bytes, backslash)),
            _mm_cmpeq_epi8(_mm_min_epu8(bytes, control), bytes));
        unsigned stops = (unsigned)_mm_movemask_epi8(found);
        unsigned others = (unsigned)_mm_movemask_epi8(bytes);
        if (stops) {
            *high = (seen | (others & (stops - 1) & ~stops)) != 0;
            return at + __builtin_ctz(stops);
        }
        seen |= others;
        at += 16;
    }
}
#else
static inline const uint8_t *penstock_string_end(const uint8_t *at, int *high) {
    const uint64_t ones = UINT64_C(0x0101010101010101), tops = UINT64_C(0x8080808080808080);
    uint64_t seen = 0;
    for (;;) {
        uint64_t bytes = penstock_load8(at);
        uint64_t quote = bytes ^ ones * '"', backslash = bytes ^ ones * '\\';
        /* Only the lowest marked byte is sure to be one; no other is asked for. */
        uint64_t stops = (((quote - ones) & ~quote) | ((backslash - ones) & ~backslash) | ((bytes - ones * 0x20) & ~bytes))
            & tops;
        if (stops) {
            *high = (seen | (bytes & tops & (stops - 1) & ~stops)) != 0;
            return at + (__builtin_ctzll(stops) >> 3);
        }
        seen |= bytes & tops;
        at += 8;
    }
}
#endif

/* Whether the `length` bytes at both places are the same; both places have 16 readable bytes for each 16 begun. */
static inline int penstock_same(const uint8_t *left, const uint8_t *right, size_t length) {
#ifdef PENSTOCK_SSE2
    for (;;) {
        __m128i same = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)left), _mm_loadu_si128((const __m128i *)right));
        unsigned alike = (unsigned)__builtin_ctz(~(unsigned)_mm_movemask_epi8(same));
        if (length <= 16) return alike >= length;
        if (alike < 16) return 0;
        left += 16, right += 16, length -= 16;
    }
#else
    return memcmp(left, right, length) == 0;
#endif
}

/* After `true`, `false` or `null`; NULL when none of them begins here. */
static inline const uint8_t *penstock_literal(const uint8_t *at) {
    if (memcmp(at, "true", 4) == 0 || memcmp(at, "null", 4) == 0) return at + 4;
    return memcmp(at, "false", 5) == 0 ? at + 5 : NULL;
}

/* How many decimal digits the 8 bytes begin with. A carry out of a byte spoils only what comes after a byte that is none. */
static inline int penstock_digits8(uint64_t text) {
    const uint64_t high = UINT64_C(0xf0f0f0f0f0f0f0f0), three = UINT64_C(0x3030303030303030);
    uint64_t others = ((text & high) ^ three) | (((text + UINT64_C(0x0606060606060606)) & high) ^ three);
    return others ? __builtin_ctzll(others) >> 3 : 8;
}

/* The first `count` of 8 digits, 1 to 8, as a number (after Mula's and Lemire's digit conversion within a word). */
static inline uint32_t penstock_number8(uint64_t text, int count) {
    if (count < 8) text = (text << (64 - 8 * count)) | (UINT64_C(0x3030303030303030) >> (8 * count));
    text -= UINT64_C(0x3030303030303030);
    text = text * 10 + (text >> 8);
    return (uint32_t)((((text & UINT64_C(0x000000ff000000ff)) * UINT64_C(0x000f424000000064)) +
                       (((text >> 16) & UINT64_C(0x000000ff000000ff)) * UINT64_C(0x0000271000000001))) >> 32);
}

/* 8 hexadecimal digits as 4 bytes in the order of the text; bits of `*bad` are set when they are none. */
static inline uint64_t penstock_hex8(uint64_t text, uint64_t *bad) {
    const uint64_t ones = UINT64_C(0x0101010101010101), tops = UINT64_C(0x8080808080808080);
    uint64_t folded = (text & ~tops) | ones * 0x20;  /* capitals become small, digits stay */
    uint64_t plain = text & ~tops;
    uint64_t digit = (plain + ones * (0x80 - '0')) & ~(plain + ones * (0x80 - '9' - 1));
    uint64_t letter = (folded + ones * (0x80 - 'a')) & ~(folded + ones * (0x80 - 'f' - 1));
    uint64_t nibbles = (text & ones * 0x0f) + 9 * ((text >> 6) & ones);
    *bad |= (~(digit | letter) | text) & tops;
    nibbles = ((nibbles << 4) | (nibbles >> 8)) & UINT64_C(0x00ff00ff00ff00ff);
    nibbles = (nibbles | (nibbles >> 8)) & UINT64_C(0x0000ffff0000ffff);
    return (nibbles | (nibbles >> 16)) & UINT64_C(0xffffffff);
}

#ifdef PENSTOCK_SSE2
/* The values of 16 hexadecimal digits, each pair in the low byte of 2 bytes; bits of `*good` are those of true digits. */
static inline __m128i penstock_hex16(__m128i text, int *good) {
    const __m128i nine = _mm_set1_epi8(9), five = _mm_set1_epi8(5);
    __m128i digit = _mm_sub_epi8(text, _mm_set1_epi8('0'));
    __m128i letter = _mm_sub_epi8(_mm_or_si128(text, _mm_set1_epi8(0x20)), _mm_set1_epi8('a'));
    __m128i is_digit = _mm_cmpeq_epi8(_mm_min_epu8(digit, nine), digit);
    __m128i is_letter = _mm_cmpeq_epi8(_mm_min_epu8(letter, five), letter);
    __m128i nibbles = _mm_or_si128(
        _mm_and_si128(digit, is_digit), _mm_and_si128(_mm_add_epi8(letter, _mm_set1_epi8(10)), is_letter));
    *good = _mm_movemask_epi8(_mm_or_si128(is_digit, is_letter));
    nibbles = _mm_or_si128(_mm_slli_epi16(nibbles, 4), _mm_srli_epi16(nibbles, 8));
    return _mm_and_si128(nibbles, _mm_set1_epi16(0xff));
}

/* The UUID in 36 characters with dashes, as its two UInt64 halves, the high one first; 0 for any other text. */
static inline int penstock_uuid(const uint8_t *text, uint64_t *halves) {
    uint32_t part[4];
    int high, low;
    memcpy(&part[0], text + 9, 4), memcpy(&part[1], text + 14, 4);
    memcpy(&part[2], text + 19, 4), memcpy(&part[3], text + 24, 4);
    __m128i first = _mm_set_epi64x((int64_t)(part[0] | (uint64_t)part[1] << 32), (int64_t)penstock_load8(text));
    __m128i last = _mm_set_epi64x((int64_t)penstock_load8(text + 28), (int64_t)(part[2] | (uint64_t)part[3] << 32));
    first = penstock_hex16(first, &high);
    last = penstock_hex16(last, &low);
    _mm_storeu_si128((__m128i *)halves, _mm_packus_epi16(first, last));
    halves[0] = __builtin_bswap64(halves[0]);
    halves[1] = __builtin_bswap64(halves[1]);
    return (high & low) == 0xffff && text[8] == '-' && text[13] == '-' && text[18] == '-' && text[23] == '-';
}
#else
/* The same without SSE2. */
static inline int penstock_uuid(const uint8_t *text, uint64_t *halves) {
    uint64_t words[4], bad = 0;
    uint32_t part[4];
    memcpy(&part[0], text + 9, 4), memcpy(&part[1], text + 14, 4);
    memcpy(&part[2], text + 19, 4), memcpy(&part[3], text + 24, 4);
    words[0] = penstock_hex8(penstock_load8(text), &bad);
    words[1] = penstock_hex8(part[0] | (uint64_t)part[1] << 32, &bad);
    words[2] = penstock_hex8(part[2] | (uint64_t)part[3] << 32, &bad);
    words[3] = penstock_hex8(penstock_load8(text + 28), &bad);
    bad |= (uint64_t)((text[8] ^ '-') | (text[13] ^ '-') | (text[18] ^ '-') | (text[23] ^ '-'));
    halves[0] = __builtin_bswap64(words[0] | words[1] << 32);
    halves[1] = __builtin_bswap64(words[2] | words[3] << 32);
    return bad == 0;
}
#endif

/* memcpy of few bytes between places with 16 readable and writable bytes for each 16 begun. */
static inline void penstock_copy(uint8_t *to, const uint8_t *from, size_t length) {
    size_t done = 0;
    if (length > 64) {
        memcpy(to, from, length);
        return;
    }
    do {
        memcpy(to + done, from + done, 16);
        done += 16;
    } while (done < length);
}

#endif
