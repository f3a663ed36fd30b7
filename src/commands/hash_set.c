/* hash_set.c - AI.HASHSET (hash_set.h). Main thread only. */
#include "commands/hash_set.h"

#include "commands/commands.h"
#include "redis/event_loop.h"
#include "values/number_text.h"

static const char *const forms[] = {"", "NUMBER", "TEXT", "ARGMAX", "BLOB"};

int hash_parse_form(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, int *at, int *found) {
    for (int form = FORM_NUMBER; *at + 1 < argc && form <= FORM_BLOB; form++) {
        if (arg_is(argv[*at + 1], forms[form])) *found = form;
    }
    *at += 2;
    return *found ? 0 : parse_error(ctx, "AS needs NUMBER, TEXT, ARGMAX or BLOB");
}

int hash_next_field(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, int *at, HashField *field) {
    if (*at == argc) return 0;
    if (*at + 1 == argc) return parse_error(ctx, "the field '%s' has no tensor", arg_text(argv[*at]));
    *field = (HashField){.name = argv[*at], .tensor = *at + 1};
    *at += 2;
    if (*at == argc || !arg_is(argv[*at], "AS")) return 1;
    return hash_parse_form(ctx, argv, argc, at, &field->form) == -1 ? -1 : 1;
}

/* Why the tensor has no such form, and which it has; NULL: it has. */
static const char *form_refusal(const Tensor *tensor, int form) {
    int is_string = tensor->offsets != NULL;
    switch (form) {
    case FORM_BLOB: return tensor_has_inner_nuls(tensor) ? "an element has a null character inside; use AS TEXT" : NULL;
    case FORM_TEXT: return !is_string ? "use AS NUMBER" : tensor->length == 1 ? NULL : "use AS BLOB";
    case FORM_ARGMAX: return is_string ? "use AS TEXT or AS BLOB" : tensor->length ? NULL : "use AS BLOB";
    }
    if (is_string || tensor->length == 1) return is_string ? "use AS TEXT" : NULL;
    return tensor->length ? "use AS ARGMAX or AS BLOB" : "use AS BLOB";
}

RedisModuleString *hash_value(const Tensor *tensor, int form, const RedisModuleString *field, char **error) {
    const DtypeRow *row = dtype_row(tensor->dtype);
    if (form == FORM_OWN) form = tensor->offsets ? FORM_TEXT : FORM_NUMBER;
    const char *refusal = form_refusal(tensor, form);
    if (refusal) {
        *error = error_text("the field '%s' cannot be the %s of a %s tensor of %lld elements; %s", arg_text(field),
                            forms[form], row->python.name, (long long)tensor->length, refusal);
        return NULL;
    }
    char text[NUMBER_TEXT];
    Bytes value = {.data = tensor->data, .size = tensor->size};
    if (form == FORM_ARGMAX) {
        return RedisModule_CreateStringFromLongLong(NULL, dtype_argmax(row, tensor->data, tensor->length));
    }
    if (form == FORM_TEXT) value = tensor_element(tensor, 0);
    if (form == FORM_NUMBER) value = (Bytes){.data = text, .size = dtype_print(row, tensor->data, text)};
    return RedisModule_CreateString(NULL, value.data, value.size);
}

void hash_set_field(RedisModuleCtx *ctx, RedisModuleString *key, RedisModuleString *field, RedisModuleString *value) {
    size_t size;
    RedisModule_StringPtrLen(value, &size);
    RedisModuleCallReply *reply = RedisModule_Call(ctx, "HSET", "!sss", key, field, value);
    if (reply) RedisModule_FreeCallReply(reply);
    event_loop_note_written(size);
}

static void report_keys(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    HashField field;
    int at = 2;
    RedisModule_KeyAtPosWithFlags(ctx, 1, KEY_UPDATE);
    while (hash_next_field(NULL, argv, argc, &at, &field) == 1) {
        RedisModule_KeyAtPosWithFlags(ctx, field.tensor, KEY_READ);
    }
}

/* The value of the next field; NULL after replying an error. */
static RedisModuleString *stored_value(RedisModuleCtx *ctx, RedisModuleString **argv, const HashField *field) {
    char *error = NULL;
    const Tensor *tensor = lookup_value(ctx, argv[field->tensor], TensorType, NO_TENSOR);
    RedisModuleString *value = tensor ? hash_value(tensor, field->form, field->name, &error) : NULL;
    if (error) RedisModule_ReplyWithError(ctx, error);
    RedisModule_Free(error);
    return value;
}

/* All values are there before the first is set. */
static int hashset_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    if (RedisModule_IsKeysPositionRequest(ctx)) {
        report_keys(ctx, argv, argc);
        return REDISMODULE_OK;
    }
    if (!key_accepts(ctx, argv[1], KEY_OF_HASH)) return REDISMODULE_OK;
    RedisModuleString **pairs = RedisModule_Alloc(argc * sizeof(*pairs));
    HashField field;
    int at = 2, count = 0, failed = 0, found;
    while (!failed && (found = hash_next_field(ctx, argv, argc, &at, &field)) != 0) {
        failed = found == -1 || (pairs[count + 1] = stored_value(ctx, argv, &field)) == NULL;
        if (failed) break;
        pairs[count] = field.name;
        count += 2;
    }
    for (int i = 0; i < count; i += 2) {
        if (!failed) hash_set_field(ctx, argv[1], pairs[i], pairs[i + 1]);
        RedisModule_FreeString(NULL, pairs[i + 1]);
    }
    RedisModule_Free(pairs);
    return failed ? REDISMODULE_OK : reply_ok(ctx);
}

COMMAND(hashset, .name = "AI.HASHSET", .flags = "write deny-oom getkeys-api", .arity = -4,
        .keys = {{"hash", KEY_UPDATE}, {"key", KEY_READ, ANYWHERE}}, .since = "2.0.0",
        .syntax = "hash field key [form: AS NUMBER | AS TEXT | AS ARGMAX | AS BLOB] [more [more ...]]",
        .summary = "Sets fields of a hash to what tensors hold",
        .complexity = "O(N) where N is the size of the tensors");

const Command *const hash_commands[] = {&hashset, NULL};
