"""Writes LZ4 blocks of 8-byte numbers that rise; rising.pxd draws them. Owns nothing."""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from _native.json_scan cimport load8

cdef extern from *:
    """
    #define PENSTOCK_BYTES_CHANGED(difference) (8 - (__builtin_clzll(difference) >> 3))
    """
    size_t bytes_changed "PENSTOCK_BYTES_CHANGED"(uint64_t difference) noexcept nogil

cdef enum:
    WIDTH = 8
    MATCH_MIN = 4           # bytes
    LAST_NBYTES = 16        # of a block: no match may begin in its last 12 bytes, or reach into its last 5
    SAMPLES = 64
    SAMPLES_MIN = 58        # of these: a few may be where one partition's rows end and another's begin
    CHANGED_MAX = 2         # bytes by which a number differs from the one before
    LITERALS_LONG = 15      # in the token: more follow in bytes of their own


cdef bint rises(const uint8_t *data, size_t nbytes) noexcept nogil:
    """Whether a block looks like it: in samples all over it, a number is larger than the one before by little."""
    cdef size_t count = nbytes // WIDTH
    cdef size_t step = count // SAMPLES
    cdef size_t rising = 0
    cdef size_t sample
    cdef uint64_t before, number
    if nbytes % WIDTH or step < 2:
        return False
    for sample in range(SAMPLES):
        before = load8(data + sample * step * WIDTH)
        number = load8(data + (sample * step + 1) * WIDTH)
        rising += number > before and bytes_changed(number ^ before) <= CHANGED_MAX
    return rising >= SAMPLES_MIN


cdef size_t rising_nbytes_max(size_t nbytes) noexcept nogil:
    """Room that a block may need: no sequence is longer than its content, but for the lengths of long literals."""
    return nbytes + nbytes // 255 + 64


cdef size_t put_rising(const uint8_t *data, size_t nbytes, uint8_t *to) noexcept nogil:
    """Writes the block; returns its size. Any content of whole numbers will do, but few become smaller."""
    cdef uint8_t *out = to
    cdef const uint8_t *literals = data
    cdef const uint8_t *at = data + WIDTH
    cdef const uint8_t *end = data + nbytes - LAST_NBYTES
    cdef uint64_t number
    cdef uint64_t before = load8(data)
    cdef size_t changed
    while at <= end - WIDTH:
        number = load8(at)
        # The same number twice: as if its lowest byte were another.
        changed = bytes_changed((number ^ before) | 1)
        before = number
        at += WIDTH
        if changed > WIDTH - MATCH_MIN:
            continue
        out = put_literals(out, literals, at - literals - (WIDTH - changed), WIDTH - MATCH_MIN - changed)
        literals = at
        out[0] = WIDTH
        out[1] = 0
        out += 2
    return put_literals(out, literals, data + nbytes - literals, 0) - to


cdef inline uint8_t *put_literals(uint8_t *out, const uint8_t *literals, size_t count, size_t match) noexcept nogil:
    """The token of a sequence and its literals."""
    cdef size_t left
    if count <= WIDTH:
        out[0] = <uint8_t>(count << 4 | match)
        # All 8 bytes, of which some are overwritten: there is as much in the block, and room.
        memcpy(out + 1, literals, WIDTH)
        return out + 1 + count
    if count < LITERALS_LONG:
        out[0] = <uint8_t>(count << 4 | match)
        out += 1
    else:
        out[0] = <uint8_t>(LITERALS_LONG << 4 | match)
        out += 1
        left = count - LITERALS_LONG
        while left >= 255:
            out[0] = 255
            out += 1
            left -= 255
        out[0] = <uint8_t>left
        out += 1
    memcpy(out, literals, count)
    return out + count
