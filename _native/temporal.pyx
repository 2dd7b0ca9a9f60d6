"""Dates and times into Date, Date32, DateTime and DateTime64 columns. Owns nothing; knows only UTC.

A value is first an instant, whole seconds since the epoch and nanoseconds after them, then the column's unit, rounded
down as ClickHouse does. Without an offset, text and datetime are UTC.
"""

from datetime import timezone

cimport cython
from cpython.datetime cimport (
    PyDate_Check, PyDateTime_Check, date_day, date_month, date_year, datetime_day, datetime_hour, datetime_microsecond,
    datetime_minute, datetime_month, datetime_second, datetime_tzinfo, datetime_year, import_datetime,
    timedelta_days, timedelta_microseconds, timedelta_seconds,
)
from cpython.float cimport PyFloat_Check
from cpython.long cimport PyLong_Check
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_Check
from libc.stdint cimport int64_t, uint64_t

from _native.buffer cimport buffer_word
from _native.decimals cimport DIGITS_MAX, Number, int128, parse_number, power_of_ten, uint128
from _native.node cimport (
    FITS, KIND_DATE, KIND_DATE32, KIND_DATETIME, OUT_OF_RANGE, WRONG_TYPE, Node, refuse,
)
from _native.python_api cimport PyLong_AsLongLongAndOverflow, PyUnicode_AsUTF8AndSize

import_datetime()

cdef enum:
    ZERO = 48           # the character 0

cdef object UTC = timezone.utc
cdef int64_t DAY_SECONDS = 86400
SECONDS_LOW = -2208988800
SECONDS_HIGH = 10413791999


@cython.cdivision(True)
cdef inline int64_t floor_divide(int64_t number, int64_t divisor) noexcept nogil:
    """Rounded down; `divisor` is positive."""
    return number // divisor - (number % divisor < 0)


cdef inline int64_t days_from_civil(int64_t year, int64_t month, int64_t day) noexcept nogil:
    """Days since 1970-01-01, proleptic Gregorian (Hinnant, "chrono-compatible low-level date algorithms")."""
    cdef int64_t shifted = year - (month <= 2)
    cdef int64_t era = floor_divide(shifted, 400)
    cdef int64_t year_of_era = shifted - era * 400
    cdef int64_t day_of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    cdef int64_t day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return era * 146097 + day_of_era - 719468


cdef int put_temporal(Node *node, object value) except -1:
    """datetime, date, ISO 8601 text, or a number of the column's epoch unit."""
    cdef Instant instant
    cdef int code
    if PyDateTime_Check(value):
        read_datetime(value, &instant)
    elif PyUnicode_Check(value):
        if not read_text(value, &instant):
            return refuse(node, WRONG_TYPE, <PyObject *>value)
    elif PyDate_Check(value):
        instant.seconds = days_from_civil(date_year(value), date_month(value), date_day(value)) * DAY_SECONDS
        instant.nanos = 0
    elif PyLong_Check(value) and not isinstance(value, bool):
        if not read_int(value, node.epoch_digits, &instant):
            return refuse(node, OUT_OF_RANGE, <PyObject *>value)
    elif PyFloat_Check(value):
        if not read_float(value, node.epoch_digits, &instant):
            return refuse(node, OUT_OF_RANGE, <PyObject *>value)
    else:
        return refuse(node, WRONG_TYPE, <PyObject *>value)
    code = store_instant(node, &instant)
    return refuse(node, OUT_OF_RANGE, <PyObject *>value) if code else FITS


@cython.overflowcheck(False)
cdef int store_instant(Node *node, const Instant *instant) except -1 nogil:
    """The instant in the column's unit, or OUT_OF_RANGE."""
    cdef int64_t number = instant.seconds
    cdef int128 ticks
    if node.kind == KIND_DATE or node.kind == KIND_DATE32:
        number = floor_divide(number, DAY_SECONDS)
    elif node.kind != KIND_DATETIME:
        if number < SECONDS_LOW or number > SECONDS_HIGH:
            return OUT_OF_RANGE
        ticks = <int128>number * <int128>power_of_ten(node.scale)
        ticks += instant.nanos // <int64_t>power_of_ten(9 - node.scale)
        if ticks < node.low or ticks > node.high:
            return OUT_OF_RANGE
        number = <int64_t>ticks
    if number < node.low or number > node.high:
        return OUT_OF_RANGE
    return buffer_word(&node.data, <uint64_t>number, node.width)


cdef int read_datetime(object value, Instant *instant) except -1:
    cdef object zone = datetime_tzinfo(value)
    instant.seconds = days_from_civil(datetime_year(value), datetime_month(value), datetime_day(value)) * DAY_SECONDS
    instant.seconds += datetime_hour(value) * 3600 + datetime_minute(value) * 60 + datetime_second(value)
    instant.nanos = datetime_microsecond(value) * 1000
    if zone is not None and zone is not UTC:
        ahead = value.utcoffset()
        if ahead is not None:
            instant.seconds -= <int64_t>timedelta_days(ahead) * DAY_SECONDS + timedelta_seconds(ahead)
            instant.nanos -= <int64_t>timedelta_microseconds(ahead) * 1000
            if instant.nanos < 0:
                instant.nanos += 1000000000
                instant.seconds -= 1
    return 0


# ---- numbers

cdef bint read_int(object value, int epoch_digits, Instant *instant) except -1:
    """An epoch number; false when it is out of all range."""
    cdef int overflow = 0
    cdef int64_t number = PyLong_AsLongLongAndOverflow(<PyObject *>value, &overflow)
    if overflow:
        return False
    epoch_instant(number, epoch_digits, instant)
    return True


@cython.cdivision(True)
cdef void epoch_instant(int64_t number, int epoch_digits, Instant *instant) noexcept nogil:
    """The instant of an epoch number in units of 10^-epoch_digits seconds."""
    cdef int64_t unit = <int64_t>power_of_ten(epoch_digits)
    cdef int64_t rest = number % unit
    instant.seconds = floor_divide(number, unit)
    instant.nanos = (rest + unit if rest < 0 else rest) * <int64_t>power_of_ten(9 - epoch_digits)


@cython.overflowcheck(False)
@cython.cdivision(True)
cdef bint read_float(object value, int epoch_digits, Instant *instant) except -1:
    """An epoch number, taken as its shortest decimal text; false when it is out of all range or not finite."""
    cdef Py_ssize_t length
    cdef Number number
    cdef uint128 rest = 0
    cdef int128 nanos
    cdef int shift
    shown = repr(float(value))
    cdef const char *text = PyUnicode_AsUTF8AndSize(<PyObject *>shown, &length)
    if not parse_number(text, length, &number):
        return False
    shift = number.exponent + 9 - epoch_digits
    if number.count + shift > 27:
        return number.count == 0 and read_int(0, epoch_digits, instant)
    if shift >= 0:
        nanos = <int128>(number.digits * power_of_ten(shift))
    elif -shift > DIGITS_MAX:
        nanos = 0
        rest = number.digits
    else:
        nanos = <int128>(number.digits // power_of_ten(-shift))
        rest = number.digits % power_of_ten(-shift)
    if number.negative:
        nanos = -nanos - (rest != 0)
    instant.seconds = <int64_t>(nanos // 1000000000)
    instant.nanos = <int64_t>(nanos % 1000000000)
    if instant.nanos < 0:
        instant.nanos += 1000000000
        instant.seconds -= 1
    return True


# ---- text

cdef struct Cursor:
    const char *at
    const char *end
    bint failed


cdef int64_t digits(Cursor *cursor, int count) noexcept nogil:
    """Exactly `count` digits."""
    cdef int64_t number = 0
    cdef int index
    if cursor.at + count > cursor.end:
        cursor.failed = True
        return 0
    for index in range(count):
        if not b"0" <= cursor.at[index] <= b"9":
            cursor.failed = True
            return 0
        number = number * 10 + (cursor.at[index] - ZERO)
    cursor.at += count
    return number


cdef bint take(Cursor *cursor, char expected) noexcept nogil:
    if cursor.at < cursor.end and cursor.at[0] == expected:
        cursor.at += 1
        return True
    return False


cdef void require(Cursor *cursor, char expected) noexcept nogil:
    if not take(cursor, expected):
        cursor.failed = True


cdef bint read_text(object value, Instant *instant) except -1:
    cdef Py_ssize_t length
    cdef const char *text
    try:
        text = PyUnicode_AsUTF8AndSize(<PyObject *>value, &length)
    except UnicodeEncodeError:
        return False
    return read_iso(text, length, instant)


cdef bint read_iso(const char *text, size_t length, Instant *instant) noexcept nogil:
    """`YYYY-MM-DD`, then optionally `T` or a blank, `HH:MM[:SS[.fraction]]`, and `Z`, `+HH:MM`, `+HHMM` or `+HH`."""
    cdef Cursor cursor
    cdef int64_t year, month, day
    cursor.at = text
    cursor.end = text + length
    cursor.failed = False
    year = digits(&cursor, 4)
    require(&cursor, b"-")
    month = digits(&cursor, 2)
    require(&cursor, b"-")
    day = digits(&cursor, 2)
    if cursor.failed or not 1 <= month <= 12 or not 1 <= day <= days_in_month(year, month):
        return False
    instant.seconds = days_from_civil(year, month, day) * DAY_SECONDS
    instant.nanos = 0
    if cursor.at == cursor.end:
        return True
    if not (take(&cursor, b"T") or take(&cursor, b" ") or take(&cursor, b"t")):
        return False
    read_time(&cursor, instant)
    read_zone(&cursor, instant)
    return not cursor.failed and cursor.at == cursor.end


cdef inline int days_in_month(int64_t year, int64_t month) noexcept nogil:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month == 4 or month == 6 or month == 9 or month == 11 else 31


cdef void read_time(Cursor *cursor, Instant *instant) noexcept nogil:
    cdef int64_t second = 0
    cdef int64_t hour = digits(cursor, 2)
    require(cursor, b":")
    cdef int64_t minute = digits(cursor, 2)
    if take(cursor, b":"):
        second = digits(cursor, 2)
        if take(cursor, b".") or take(cursor, b","):
            instant.nanos = read_fraction(cursor)
    if hour > 23 or minute > 59 or second > 59:
        cursor.failed = True
    instant.seconds += hour * 3600 + minute * 60 + second


cdef int64_t read_fraction(Cursor *cursor) noexcept nogil:
    """At least one digit; those after the ninth are dropped."""
    cdef int64_t nanos = 0
    cdef int64_t unit = 100000000
    if cursor.at == cursor.end or not b"0" <= cursor.at[0] <= b"9":
        cursor.failed = True
    while cursor.at < cursor.end and b"0" <= cursor.at[0] <= b"9":
        nanos += (cursor.at[0] - ZERO) * unit
        unit //= 10
        cursor.at += 1
    return nanos


cdef void read_zone(Cursor *cursor, Instant *instant) noexcept nogil:
    cdef int64_t sign = 1
    cdef int64_t hour
    cdef int64_t minute = 0
    if cursor.at == cursor.end or take(cursor, b"Z") or take(cursor, b"z"):
        return
    if take(cursor, b"-"):
        sign = -1
    else:
        require(cursor, b"+")
    hour = digits(cursor, 2)
    if cursor.at < cursor.end:
        take(cursor, b":")
        minute = digits(cursor, 2)
    if hour > 23 or minute > 59:
        cursor.failed = True
    instant.seconds -= sign * (hour * 3600 + minute * 60)
