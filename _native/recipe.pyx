"""Recipes made from a contract's plan and the columns its rows go into. Owns what the hot path reads; reads no record.

Where plan and column together leave a doubt the action is NOT_SURE: the record then goes the way it would go without
this lane. So a missing rule here costs time and never a wrong row.
"""

import re

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free

from msgspec import UNSET, msgpack

from _native.block cimport BlockBuilder
from _native.decimals cimport DIGITS_MAX
from _native.node cimport Columns, Node
from _native.put cimport put
from _native.temporal cimport SECONDS_HIGH, SECONDS_LOW

from _native.chtypes import leaf
from _native.node import EPOCH_DIGITS

TIMES = frozenset(("date", "date32", "datetime", "datetime64"))
FLOATS = {"float64": STORE_FLOAT64, "float32": STORE_FLOAT32, "bfloat16": STORE_BFLOAT16}
TEXTS = {
    "string": STORE_STRING, "json": STORE_STRING, "fixed_string": STORE_FIXED, "uuid": STORE_UUID, "ipv4": STORE_IPV4,
    "ipv6": STORE_IPV6,
    "date": STORE_TIME, "date32": STORE_TIME, "datetime": STORE_TIME, "datetime64": STORE_TIME,
}
FORMS = {"datetime": STORE_MOMENT, "date": STORE_DAY, "uuid": STORE_UUID}
FORM_KINDS = {
    "datetime": frozenset(("datetime", "datetime64")),
    "date": frozenset(("date", "date32")),
    "uuid": frozenset(("uuid",)),
}


ODD_NAME = re.compile(r'[\x00-\x1f"\\]')


cdef class Recipe:
    """How records become rows of `row_type` in `builder`. `plan` is a vocabulary.RowPlan."""

    def __cinit__(self, BlockBuilder builder not None, row_type, plan):
        self.builder = builder
        self.row_type = row_type
        self.tag = plan.tag.encode() + bytes(16)
        self.tag_nbytes = len(self.tag) - 16
        self.packed = plan.packed
        self.problems = []
        self.owned = []
        self.key_columns = set(builder.plan.key_indexes)
        self.usable = True
        self.strict = plan.strict
        self.object.strict = plan.strict
        self.build_object(&self.object, plan.fields, plan.forbid_unknown, False, "$")
        filled = {field.attribute for field in plan.fields}
        for source in builder.plan.sources:
            if source not in filled:
                self.problems.append(f"{source}: it is no field of the contract")
                self.usable = False

    def __dealloc__(self):
        free_object(&self.object)

    cdef const uint8_t *keep(self, bytes text):
        self.owned.append(text)
        return <const uint8_t *><const char *>text

    # ---- fields

    cdef int build_object(self, Object *object, tuple fields, bint forbid, bint nested, str path) except -1:
        cdef size_t index
        object.forbid_unknown = forbid
        object.fields = <Field *>calloc(len(fields) or 1, sizeof(Field))
        if object.fields == NULL:
            raise MemoryError(f"no memory for {len(fields)} fields")
        object.count = len(fields)
        if object.count > FIELDS_MAX:
            self.problems.append(f"{path}: it has more than {FIELDS_MAX} fields")
            self.usable = False
        for index in range(object.count):
            object.fields[index].number = <uint32_t>index
            self.build_field(&object.fields[index], fields[index], nested, f"{path}.{fields[index].name}")
        return 0

    cdef int build_field(self, Field *field, object plan, bint nested, str path) except -1:
        cdef bytes name = plan.name.encode()
        if ODD_NAME.search(plan.name):
            # Written with escapes in the record; the hot path compares plain bytes.
            self.problems.append(f"{path}: its name needs escapes in JSON")
            self.usable = False
        field.name_nbytes = len(name)
        field.name = self.keep(name + b'":' + bytes(16))
        packed = msgpack.encode(plan.name)
        field.packed = self.keep(packed + bytes(16))
        field.packed_nbytes = len(packed)
        field.column = -1
        spec = column = None
        if nested:
            self.build_json(&field.value, plan.takes, path)
            self.build_nested_missing(field, plan)
        else:
            if plan.attribute in self.builder.plan.sources:
                field.column = self.builder.plan.sources.index(plan.attribute)
                spec = self.builder.plan.specs[field.column]
                column = self.builder.plan.filled[field.column]
            self.build_value(&field.value, plan.takes, spec, column, field.column in self.key_columns, path)
            self.build_missing(field, plan)
            field.is_key = field.column in self.key_columns
        if not takes_any(&field.value):
            self.problems.append(f"{path}: {plan.takes.problem or unread(plan.takes)}")
            self.usable = self.usable and not plan.required
        return 0

    cdef int build_missing(self, Field *field, object plan) except -1:
        """What a record without the field has in its column."""
        field.on_missing = MISSING_NOT_SURE
        if plan.required and self.strict:
            field.on_missing = MISSING_REFUSED
        if plan.required or not plan.default_known:
            return 0
        if field.column < 0:
            field.on_missing = MISSING_NOTHING
            return 0
        spec = self.builder.plan.specs[field.column]
        column = self.builder.plan.filled[field.column]
        absent = plan.default is None or plan.default is UNSET
        if absent and field.column in self.key_columns:
            return 0
        if plan.default is UNSET or (absent and (spec.kind == "nullable" or column.null_as_default)):
            field.on_missing = MISSING_ZERO
            return 0
        if absent or leaf(spec).children:
            empty = spec.kind in ("array", "map") and isinstance(plan.default, (list, tuple, dict)) and not plan.default
            field.on_missing = MISSING_ZERO if empty else MISSING_NOT_SURE
            return 0
        stored = self.stored_form(leaf(spec), column, plan.default)
        if stored is not None:
            field.on_missing = MISSING_STORED
            field.stored = self.keep(stored)
            field.stored_nbytes = len(stored)
        return 0

    cdef int build_nested_missing(self, Field *field, object plan) except -1:
        """What the JSON text of a nested Struct has where the record has no such field."""
        if not plan.required and plan.default_known:
            field.on_missing = MISSING_STORED
            field.stored = self.keep(plan.default)
            field.stored_nbytes = len(plan.default)
        return 0

    cdef bytes stored_form(self, object spec, object column, object content):
        """What a column of this type holds for `content`, or None when it refuses it."""
        cdef Columns scratch = Columns([spec], [column], self.builder.plan.encode_json)
        cdef Node *node = &scratch.nodes[0]
        if put(node, <PyObject *>content):
            return None
        return node.data.data[:node.data.used] if node.data.used else b""

    # ---- values

    cdef int build_value(self, Value *value, object takes, object spec, object column, bint is_key, str path) except -1:
        """`spec` and `column` are None for what is in no column."""
        if spec is None:
            return self.build_unstored(value, takes, path)
        value.nullable = spec.kind == "nullable"
        inner = leaf(spec)
        if takes.raw:
            return build_raw(value, takes, inner)
        if (takes.null or takes.anything) and not is_key and (value.nullable or column.null_as_default):
            value.on_null = ZEROED
        if (takes.boolean or takes.anything) and inner.kind == "bool":
            value.on_bool = STORE_BOOL
        build_number(value, takes, inner, column)
        build_text(value, takes, inner)
        if self.strict:
            build_refusals(value, takes, inner)
        self.build_packed(value, takes, inner)
        self.build_choices(value, takes, inner, column)
        return self.build_compound(value, takes, inner, column, path)

    cdef int build_unstored(self, Value *value, object takes, str path) except -1:
        """Of what is in no column only that msgspec accepts it matters."""
        if takes.null or takes.anything or takes.raw == "any":
            value.on_null = CHECK
        if takes.boolean or takes.anything or takes.raw == "any":
            value.on_bool = CHECK
        if takes.raw == "any":
            value.on_int = value.on_float = value.on_text = value.on_array = value.on_object = STORE_RAW
            value.on_bytes = value.on_extension = STORE_RAW
            return 0
        if self.packed and (takes.binary == "bytes" or takes.anything):
            value.on_bytes = CHECK
        if takes.floating or takes.anything:
            value.on_int = value.on_float = CHECK
        elif takes.integer and not bounded(takes):
            value.on_int = CHECK
        if takes.text == "str" or takes.anything:
            value.on_text = CHECK
        self.build_choices(value, takes, None, None)
        return self.build_json_of(value, takes, path)

    cdef int build_packed(self, Value *value, object takes, object spec) except -1:
        """What only MessagePack has: bytes, and times as an extension."""
        if not self.packed:
            return 0
        if takes.binary == "uuid" and spec.kind == "uuid":
            value.on_bytes = STORE_UUID
        elif (takes.binary == "bytes" or takes.anything) and spec.kind in ("string", "json", "fixed_string"):
            value.on_bytes = TEXTS[spec.kind]
        if (takes.text == "datetime" or takes.anything) and spec.kind in TIMES:
            value.on_extension = STORE_MOMENT
        return 0

    cdef int build_choices(self, Value *value, object takes, object spec, object column) except -1:
        """The texts and numbers that an enumeration allows, with what the column holds for each."""
        cdef size_t index
        cdef bytes name, stored
        allowed = takes.choices
        if allowed is None and spec is not None and spec.kind == "enum":
            allowed = (
                *(spec.labels if takes.text == "str" or takes.anything else ()),
                *(numbers_of(spec) if takes.integer or takes.anything else ()),
            )
        if not allowed:
            return 0
        value.on_text = value.on_int = NOT_SURE
        value.choices = <Choice *>calloc(len(allowed), sizeof(Choice))
        if value.choices == NULL:
            raise MemoryError("no memory for the members of an enumeration")
        for content in allowed:
            stored = b"" if spec is None else self.stored_form(spec, column, content)
            if stored is None:
                continue
            index = value.choice_count
            value.choices[index].stored = self.keep(stored)
            value.choices[index].stored_nbytes = len(stored)
            if isinstance(content, str):
                name = content.encode()
                value.choices[index].name = self.keep(name + bytes(16))
                value.choices[index].name_nbytes = len(name)
                value.on_text = STORE_CHOICE
            else:
                value.choices[index].number = content
                value.on_int = STORE_CHOICE
            value.choice_count += 1
        return 0

    cdef int build_compound(self, Value *value, object takes, object spec, object column, str path) except -1:
        if spec.kind == "array" and takes.items is not None:
            value.on_array = STORE_ITEMS
            value.items = new_value()
            return self.build_value(value.items, takes.items, spec.children[0], column, False, path)
        if spec.kind == "map" and takes.pairs is not None and spec.children[0].kind == "string":
            value.on_object = STORE_PAIRS
            value.items = new_value()
            return self.build_value(value.items, takes.pairs, spec.children[1], column, False, path)
        if spec.kind in ("string", "json"):
            return self.build_json_of(value, takes, path)
        return 0

    # ---- JSON text

    cdef int build_json_of(self, Value *value, object takes, str path) except -1:
        """Arrays and objects that go as JSON text into one value, or are only looked at."""
        if not (takes.anything or takes.items is not None or takes.pairs is not None or takes.fields is not None):
            return 0
        value.items = new_value()
        self.build_json(value.items, takes, path)
        value.on_array = STORE_JSON if value.items.on_array else NOT_SURE
        value.on_object = STORE_JSON if value.items.on_object else NOT_SURE
        return 0

    cdef int build_json(self, Value *value, object takes, str path) except -1:
        """What is written for a value inside JSON text. A value of any type has itself as its elements."""
        if takes.raw or takes.choices is not None or (takes.integer and bounded(takes)):
            return 0
        if takes.null or takes.anything:
            value.on_null = WRITE_PLAIN
        if takes.boolean or takes.anything:
            value.on_bool = WRITE_PLAIN
        if takes.floating:
            value.on_int = value.on_float = WRITE_FLOAT
        if takes.anything:
            value.on_float = WRITE_FLOAT
        if takes.integer or takes.anything:
            value.on_int = WRITE_PLAIN
        if takes.text == "str" or takes.anything:
            value.on_text = WRITE_TEXT
        if takes.anything:
            value.on_array, value.on_object = WRITE_ITEMS, WRITE_PAIRS
            return 0
        return self.build_json_compound(value, takes, path)

    cdef int build_json_compound(self, Value *value, object takes, str path) except -1:
        if takes.fields is not None:
            value.on_object = WRITE_STRUCT
            value.object = <Object *>calloc(1, sizeof(Object))
            if value.object == NULL:
                raise MemoryError("no memory for a nested Struct")
            self.build_object(value.object, takes.fields, takes.forbid_unknown, True, path)
            return 0
        inner = takes.items if takes.items is not None else takes.pairs
        if inner is None or (takes.items is not None and takes.pairs is not None):
            return 0
        value.items = new_value()
        self.build_json(value.items, inner, path)
        if takes.items is not None:
            value.on_array = WRITE_ITEMS
        else:
            value.on_object = WRITE_PAIRS
        return 0


cdef Value *new_value() except NULL:
    cdef Value *value = <Value *>calloc(1, sizeof(Value))
    if value == NULL:
        raise MemoryError("no memory for a value's plan")
    return value


cdef bint bounded(object takes) except -1:
    return takes.low > -(2**63) or takes.high < 2**64 - 1


cdef tuple numbers_of(object spec):
    return tuple(sorted(set(spec.labels.values())))


cdef int build_raw(Value *value, object takes, object spec) except -1:
    if spec.kind not in ("string", "json"):
        return 0
    value.on_object = STORE_RAW
    if takes.raw == "any":
        value.on_null = value.on_bool = value.on_int = value.on_float = value.on_text = value.on_array = STORE_RAW
        value.on_bytes = value.on_extension = STORE_RAW
    return 0


cdef int build_number(Value *value, object takes, object spec, object column) except -1:
    if takes.integer or takes.anything:
        value.on_int = integer_action(spec)
        if value.on_int == STORE_EPOCH and own_unit(spec, column):
            value.on_int = STORE_INT
            low, high = epoch_bounds(spec)
            value.low = max(takes.low, low)
            value.high = min(takes.high, high)
        elif value.on_int == STORE_INT:
            value.low = max(takes.low, spec.low)
            value.high = min(takes.high, spec.high)
        elif bounded(takes):
            value.on_int = NOT_SURE
    if takes.floating:
        value.on_int = value.on_float = FLOATS.get(spec.kind, NOT_SURE)
    elif takes.anything:
        value.on_float = FLOATS.get(spec.kind, NOT_SURE)
    if takes.decimal:
        value.on_int = value.on_float = value.on_text = decimal_action(spec)
    return 0


cdef int build_refusals(Value *value, object takes, object spec) except -1:
    """What msgspec is known to refuse: it converts no text. Rarer faults are left to it in their turn."""
    if takes.anything or takes.raw or takes.problem:
        return 0
    if not takes.null:
        value.refuses |= REFUSES_NULL
    if (takes.integer or takes.floating or takes.boolean) and not (takes.text or takes.decimal or takes.choices):
        value.refuses |= REFUSES_TEXT
    if takes.text == "str":
        value.refuses |= REFUSES_BROKEN_TEXT
    if value.on_int == STORE_INT and spec.kind == "int":
        value.refuses |= REFUSES_RANGE
    return 0


cdef bint own_unit(object spec, object column) except -1:
    """Whether epoch numbers of the column are stored as they are, within bounds."""
    if spec.kind == "datetime64":
        return EPOCH_DIGITS[column.epoch_unit] == spec.scale
    return spec.kind == "datetime" and column.epoch_unit == "s"


cdef tuple epoch_bounds(object spec):
    """The smallest and largest number of the column, as store_instant has them."""
    unit = 10**spec.scale if spec.kind == "datetime64" else 1
    return max(spec.low, SECONDS_LOW * unit), min(spec.high, SECONDS_HIGH * unit + unit - 1)


cdef int integer_action(object spec) except -1:
    if spec.kind == "int":
        return STORE_INT
    if spec.kind == "uint64":
        return STORE_UINT64
    if spec.kind == "bigint":
        return STORE_BIGINT
    if spec.kind in TIMES:
        return STORE_EPOCH
    return decimal_action(spec) or FLOATS.get(spec.kind, NOT_SURE)


cdef int decimal_action(object spec) except -1:
    return STORE_DECIMAL if spec.kind == "decimal" and spec.precision <= DIGITS_MAX else NOT_SURE


cdef int build_text(Value *value, object takes, object spec) except -1:
    if takes.text == "str" or takes.anything:
        value.on_text = decimal_action(spec) if spec.kind == "decimal" else TEXTS.get(spec.kind, NOT_SURE)
    elif takes.text and spec.kind in FORM_KINDS[takes.text]:
        value.on_text = FORMS[takes.text]
    return 0


cdef bint takes_any(const Value *value) noexcept:
    return bool(
        value.on_null or value.on_bool or value.on_int or value.on_float or value.on_text or value.on_array
        or value.on_object or value.on_bytes or value.on_extension
    )


cdef str unread(object takes):
    """Why nothing is taken of what the contract accepts."""
    return "bytes as base64 are left to msgspec" if takes.binary == "bytes" else "its type and its column"


cdef void free_value(Value *value) noexcept:
    free(value.choices)
    if value.items != NULL:
        free_value(value.items)
        free(value.items)
    if value.object != NULL:
        free_object(value.object)
        free(value.object)


cdef void free_object(Object *object) noexcept:
    cdef size_t index
    if object.fields != NULL:
        for index in range(object.count):
            free_value(&object.fields[index].value)
        free(object.fields)
        object.fields = NULL
