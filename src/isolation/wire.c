/* wire.c - numbers and bytes in a row (wire.h). */
#include "isolation/wire.h"

#include <string.h>

#include "redis/api.h"
#include "values/names.h"

static char *make_room(Writer *writer, size_t size) {
    if (writer->capacity - writer->size < size) {
        writer->capacity = (writer->size + size) * 2;
        writer->data = RedisModule_Realloc(writer->data, writer->capacity);
    }
    char *at = writer->data + writer->size;
    writer->size += size;
    return at;
}

void write_number(Writer *writer, int64_t number) {
    memcpy(make_room(writer, sizeof(number)), &number, sizeof(number));
}

void write_bytes(Writer *writer, const void *data, uint64_t size) {
    write_number(writer, (int64_t)size);
    char *at = make_room(writer, size + 1);
    if (size) memcpy(at, data, size);
    at[size] = '\0';
}

void write_text(Writer *writer, const char *text) { write_bytes(writer, text, text ? strlen(text) : 0); }

void write_names(Writer *writer, const Names *names) {
    write_number(writer, names->count);
    for (int64_t i = 0; i < names->count; i++) write_text(writer, names->names[i]);
}

/* NULL: there is not so much left. */
static const char *take(Reader *reader, uint64_t size) {
    if (reader->failed || size > (uint64_t)(reader->end - reader->at)) {
        reader->failed = 1;
        return NULL;
    }
    const char *at = reader->at;
    reader->at += size;
    return at;
}

int64_t read_number(Reader *reader) {
    int64_t number = 0;
    const char *at = take(reader, sizeof(number));
    if (at) memcpy(&number, at, sizeof(number));
    return number;
}

Bytes read_bytes(Reader *reader) {
    uint64_t size = (uint64_t)read_number(reader);
    const char *data = size == UINT64_MAX ? NULL : take(reader, size + 1);
    if (data == NULL || data[size] != '\0') {
        reader->failed = 1;
        return (Bytes){.data = ""};
    }
    return (Bytes){.data = data, .size = size};
}

char *read_text(Reader *reader) {
    Bytes bytes = read_bytes(reader);
    char *text = RedisModule_Alloc(bytes.size + 1);
    memcpy(text, bytes.data, bytes.size);
    text[bytes.size] = '\0';
    return text;
}

void read_names(Reader *reader, Names *names) {
    int64_t count = read_number(reader);
    for (int64_t i = 0; i < count && !reader->failed; i++) names_append(names, read_text(reader));
}
