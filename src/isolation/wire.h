/* wire.h - numbers and bytes in a row: what the server and an engine process tell each other. Any thread; no state.
 *
 * Both processes run this same code on one machine, so numbers have the machine's own order. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "bridge.h"

/* What is written so far. data is RedisModule_Free'd by whoever has written it. */
typedef struct Writer {
    char *data;
    size_t size;
    size_t capacity;
} Writer;

void write_number(Writer *writer, int64_t number);
void write_bytes(Writer *writer, const void *data, uint64_t size);
void write_text(Writer *writer, const char *text); /* NULL is written as "" */
void write_names(Writer *writer, const Names *names);

/* What is left to be read. A reader trusts nothing: beyond the end it reads zeros, and `failed` stays set. */
typedef struct Reader {
    const char *at;
    const char *end;
    int failed;
} Reader;

int64_t read_number(Reader *reader);
/* Points into what is read. A NUL follows. */
Bytes read_bytes(Reader *reader);
/* A copy, which the caller frees; never NULL. */
char *read_text(Reader *reader);
void read_names(Reader *reader, Names *names);
