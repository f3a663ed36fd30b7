/* streams.c - bindings of streams: each new entry becomes a row, and its result an entry of another stream
 * (bindings.h). Main thread only.
 *
 * How far a stream has been read is what a consumer group of the binding's name says: so that lies in the stream
 * itself, is saved, replicated and moved with it, and XINFO GROUPS tells it. It moves in the transaction that adds the
 * results. One run at a time has entries of a stream, so they stay in order. */
#include <stdio.h>
#include <string.h>

#include "bindings/bindings.h"
#include "redis/command.h"

#define ID_TEXT 48

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static int text_is(RedisModuleCallReply *reply, const char *text, size_t length) {
    size_t size;
    const char *bytes = reply ? RedisModule_CallReplyStringPtr(reply, &size) : NULL;
    return bytes && size == length && memcmp(bytes, text, size) == 0;
}

static RedisModuleCallReply *item(RedisModuleCallReply *reply, size_t index) {
    return RedisModule_CallReplyArrayElement(reply, index);
}

/* An ID of a reply. */
static RedisModuleStreamID parse_id(RedisModuleCallReply *reply) {
    RedisModuleStreamID id = {0, 0};
    size_t size;
    const char *bytes = RedisModule_CallReplyStringPtr(reply, &size);
    char text[ID_TEXT];
    snprintf(text, sizeof(text), "%.*s", (int)size, bytes ? bytes : "");
    sscanf(text, "%lu-%lu", &id.ms, &id.seq);
    return id;
}

static void print_id(RedisModuleStreamID id, char text[ID_TEXT]) { snprintf(text, ID_TEXT, "%lu-%lu", id.ms, id.seq); }

/* Finds the position of the group that has this name: 1, 0 where there is no such group. */
static int find_position(RedisModuleCallReply *groups, const RedisModuleString *group, RedisModuleStreamID *position) {
    size_t size;
    const char *name = RedisModule_StringPtrLen(group, &size);
    for (size_t i = 0; i < RedisModule_CallReplyLength(groups); i++) {
        RedisModuleCallReply *fields = item(groups, i);
        if (!text_is(item(fields, 1), name, size)) continue;
        for (size_t j = 0; j + 1 < RedisModule_CallReplyLength(fields); j += 2) {
            if (text_is(item(fields, j), "last-delivered-id", 17)) *position = parse_id(item(fields, j + 1));
        }
        return 1;
    }
    return 0;
}

static RedisModuleStreamID before(RedisModuleStreamID id) {
    if (id.seq) return (RedisModuleStreamID){id.ms, id.seq - 1};
    return id.ms ? (RedisModuleStreamID){id.ms - 1, UINT64_MAX} : id;
}

/* XGROUP CREATE, or SETID. Returns an error, which the caller frees, or NULL. */
static char *set_position(RedisModuleCtx *ctx, const Binding *b, RedisModuleString *key, const char *word,
                          RedisModuleStreamID id) {
    char text[ID_TEXT];
    print_id(id, text);
    RedisModuleString *argv[] = {RedisModule_CreateString(NULL, word, strlen(word)), key, b->name,
                                 RedisModule_CreateString(NULL, text, strlen(text))};
    char *error = work_call(ctx, "XGROUP", argv, 4);
    RedisModule_FreeString(NULL, argv[0]);
    RedisModule_FreeString(NULL, argv[3]);
    return error;
}

static char *error_of(RedisModuleCallReply *reply) {
    if (reply && RedisModule_CallReplyType(reply) != REDISMODULE_REPLY_ERROR) return NULL;
    size_t size = 0;
    const char *text = reply ? RedisModule_CallReplyStringPtr(reply, &size) : NULL;
    return text ? error_text("%.*s", (int)size, text) : error_text("the stream cannot be read");
}

/* Where the binding goes on. Makes its group where the stream has none. Returns an error, or NULL. */
static char *begin_at(RedisModuleCtx *ctx, const Binding *b, const Pending *pending, RedisModuleStreamID *position) {
    RedisModuleCallReply *groups = RedisModule_Call(ctx, "XINFO", "CEcs", "GROUPS", pending->key);
    char *error = error_of(groups);
    int found = error == NULL && find_position(groups, b->name, position);
    if (groups) RedisModule_FreeCallReply(groups);
    if (error || found) return error;
    *position = before(pending->from);
    return set_position(ctx, b, pending->key, "CREATE", *position);
}

/* An entry while its row is read. */
typedef struct Entry {
    RedisModuleString **words; /* name value ... */
    long count;                /* fields */
} Entry;

static RedisModuleString *field_of(void *data, const RedisModuleString *field) {
    const Entry *entry = data;
    for (long i = 0; i < entry->count; i++) {
        if (RedisModule_StringCompare(entry->words[2 * i], field) != 0) continue;
        return RedisModule_HoldString(NULL, entry->words[2 * i + 1]);
    }
    return NULL;
}

static void read_entry(Batch *batch, RedisModuleKey *key, RedisModuleStreamID id, long nfields) {
    Entry entry = {.words = RedisModule_Alloc(2 * nfields * sizeof(*entry.words) + 1)};
    while (entry.count < nfields) {
        RedisModuleString **pair = entry.words + 2 * entry.count;
        if (RedisModule_StreamIteratorNextField(key, &pair[0], &pair[1]) == REDISMODULE_ERR) break;
        entry.count++;
    }
    batch->ids[batch->nentries] = id;
    batch->errors[batch->nentries++] = rows_add(&batch->rows_read, field_of, &entry);
    for (long i = 0; i < 2 * entry.count; i++) RedisModule_FreeString(NULL, entry.words[i]);
    RedisModule_Free(entry.words);
}

/* Whether that is all for this batch. Rows that cannot run are written at once, so those are no more than there is time
 * for. */
static int read_entries(Batch *batch, RedisModuleKey *key) {
    const Rows *rows = &batch->rows_read;
    RedisModuleStreamID from = batch->nentries ? batch->ids[batch->nentries - 1] : batch->position, id;
    long nfields;
    int is_over =
        RedisModule_StreamIteratorStart(key, REDISMODULE_STREAM_ITERATOR_EXCLUSIVE, &from, NULL) == REDISMODULE_ERR;
    for (int has_time = 1; !is_over && has_time; has_time = work_has_time()) {
        is_over = RedisModule_StreamIteratorNextID(key, &id, &nfields) == REDISMODULE_ERR;
        if (!is_over) read_entry(batch, key, id, nfields);
        is_over |= batch->nentries == rows->capacity || rows_are_full(rows);
    }
    RedisModule_StreamIteratorStop(key);
    return is_over || rows->count == 0;
}

/* NULL: there is no stream at the key. */
static RedisModuleKey *open_stream(RedisModuleCtx *ctx, RedisModuleString *name) {
    RedisModuleKey *key = RedisModule_OpenKey(ctx, name, REDISMODULE_READ);
    if (key == NULL || RedisModule_KeyType(key) == REDISMODULE_KEYTYPE_STREAM) return key;
    RedisModule_CloseKey(key);
    return NULL;
}

static void end(RedisModuleCtx *ctx, Binding *b, Pending *pending) {
    RedisModuleString *key = RedisModule_HoldString(NULL, pending->key);
    pending_free(b, pending);
    work_replicate_done(ctx, b, &key, 1);
    RedisModule_FreeString(NULL, key);
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

typedef struct Words {
    RedisModuleString **words;
    size_t count;
} Words;

static void add(Words *w, const char *text, size_t size) {
    w->words[w->count++] = RedisModule_CreateString(NULL, text, size);
}

static void add_text(Words *w, const char *text) { add(w, text, strlen(text)); }
static void add_name(Words *w, RedisModuleString *name) { w->words[w->count++] = RedisModule_HoldString(NULL, name); }

/* stream [MAXLEN ~ n] * stream key id id: then come the fields of the result. */
static void add_head(Words *w, const Binding *b, const Pending *pending, RedisModuleStreamID id) {
    char text[ID_TEXT];
    add_name(w, b->stream);
    if (b->maxlen) {
        add_text(w, "MAXLEN");
        add_text(w, "~");
        w->words[w->count++] = RedisModule_CreateStringFromLongLong(NULL, b->maxlen);
    }
    add_text(w, "*");
    add_text(w, "stream");
    add_name(w, pending->key);
    print_id(id, text);
    add_text(w, "id");
    add_text(w, text);
}

/* Adds the result's fields. Returns an error, or NULL. */
static char *add_result(Words *w, const Batch *batch, const Run *run, int row) {
    const Binding *b = batch->binding;
    char *error = NULL;
    for (int i = 0; i < b->nset; i++) {
        RedisModuleString *value = work_value(run, batch, i, row, b->outputs[i].form, &error);
        if (value == NULL) return error;
        add_name(w, b->outputs[i].name);
        w->words[w->count++] = value;
    }
    if (b->version) {
        add_name(w, b->version);
        add(w, batch->tag, batch->tag_size);
    }
    return NULL;
}

static void free_words(Words *w) {
    for (size_t i = 0; i < w->count; i++) RedisModule_FreeString(NULL, w->words[i]);
    RedisModule_Free(w->words);
}

/* Adds the next entry's result, or with ERROR why there is none. Returns why that cannot be written, or NULL. */
static char *write_entry(RedisModuleCtx *ctx, Batch *batch, const Pending *pending, const char *failure) {
    Binding *b = batch->binding;
    RedisModuleStreamID id = batch->ids[batch->written];
    Words w = {.words = RedisModule_Alloc((2 * b->nset + 16) * sizeof(*w.words))};
    add_head(&w, b, pending, id);
    char *error = failure ? RedisModule_Strdup(failure) : add_result(&w, batch, batch->run, batch->row),
         *refusal = NULL;
    if (error && b->error) {
        Words own = {.words = RedisModule_Alloc(16 * sizeof(*w.words))};
        add_head(&own, b, pending, id);
        add_name(&own, b->error);
        add_text(&own, error);
        refusal = work_call(ctx, "XADD", own.words, own.count);
        free_words(&own);
    }
    if (error == NULL) refusal = work_call(ctx, "XADD", w.words, w.count);
    free_words(&w);
    if (error && refusal == NULL) work_note_error(b, pending->key, error);
    if (error && refusal) RedisModule_Free(error);
    return refusal;
}

static int write_entries(RedisModuleCtx *ctx, Batch *batch, Pending *pending) {
    Binding *b = batch->binding;
    char *refusal = NULL;
    int first = batch->written, has_time = 1;
    for (; batch->written < batch->nentries && !pending->is_gone && has_time; batch->written++) {
        const char *error = batch->errors[batch->written];
        refusal = write_entry(ctx, batch, pending, error ? error : batch->failure);
        if (refusal) break;
        batch->row += error == NULL;
        has_time = work_has_time();
    }
    if (batch->written > first) {
        char *error = set_position(ctx, b, pending->key, "SETID", batch->ids[batch->written - 1]);
        if (error) RedisModule_Free(refusal);
        if (error) refusal = error;
    }
    if (!refusal && !pending->is_gone && batch->written < batch->nentries) return 0;
    if (!refusal && pending->has_changed) pending->since = pending->changed;
    pending_give_back(b, pending, b->alone > 0 || refusal); /* until there is no entry left */
    if (refusal) work_wait(b, pending->key, refusal);
    return 1;
}

int streams_write(RedisModuleCtx *ctx, Batch *batch) { return write_entries(ctx, batch, batch->pending[0]); }

/* ---- both ----------------------------------------------------------------------------------------------------------
 */

/* Takes the stream that comes next, and finds where to go on. */
static void take_stream(RedisModuleCtx *ctx, Batch *batch) {
    Binding *b = batch->binding;
    Pending *pending = b->first;
    pending_take(b, pending);
    RedisModuleKey *key = open_stream(ctx, pending->key);
    if (key == NULL) {
        end(ctx, b, pending);
        return;
    }
    RedisModule_CloseKey(key);
    char *error = begin_at(ctx, b, pending, &batch->position);
    if (error) {
        pending_give_back(b, pending, 1);
        work_wait(b, pending->key, error);
        return;
    }
    int capacity = batch->rows_read.capacity;
    batch->pending = RedisModule_Alloc(sizeof(*batch->pending));
    batch->pending[batch->npending++] = pending;
    batch->ids = RedisModule_Calloc(capacity, sizeof(*batch->ids));
    batch->errors = RedisModule_Calloc(capacity, sizeof(*batch->errors));
}

int streams_read(RedisModuleCtx *ctx, RedisModuleUser *user, Batch *batch) {
    if (batch->npending == 0) take_stream(ctx, batch);
    if (batch->npending == 0) return 1;
    Pending *pending = batch->pending[0];
    RedisModuleKey *key = pending->is_gone ? NULL : open_stream(ctx, pending->key);
    int is_over = key == NULL || read_entries(batch, key);
    if (key) RedisModule_CloseKey(key);
    if (!is_over || batch->rows_read.count) return is_over;
    batch->npending = 0;
    if (batch->nentries == 0 && !pending->is_gone) {
        end(ctx, batch->binding, pending);
    } else {
        while (!write_entries(ctx, batch, pending)) continue;
    }
    return 1;
}
