/* hash_set.h - AI.HASHSET: tensors as values of hashes, also at the end of DAGs. Main thread only. */
#pragma once

#include "redis/command_table.h"
#include "values/tensor.h"

/* How a tensor becomes the value of a field. FORM_OWN: a number or a text, where it has one element. */
enum { FORM_OWN, FORM_NUMBER, FORM_TEXT, FORM_ARGMAX, FORM_BLOB };

/* A field with its tensor, of the words `field tensor [AS form]`. */
typedef struct HashField {
    RedisModuleString *name;
    int tensor; /* index in argv */
    int form;   /* FORM_... */
} HashField;

/* Parses the next field, at argv[*at], and moves *at behind it. 0: there is none; -1 after replying an error. */
int hash_next_field(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, int *at, HashField *field);

/* Parses AS, where argv[*at] is, and the form; moves *at behind them. -1 after replying an error. */
int hash_parse_form(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, int *at, int *form);

/* The value of a field in this form; the caller frees it. NULL with *error set, which the caller frees too. */
RedisModuleString *hash_value(const Tensor *tensor, int form, const RedisModuleString *field, char **error);

/* Sets a field of a hash, or of an empty key, and replicates that. */
void hash_set_field(RedisModuleCtx *ctx, RedisModuleString *key, RedisModuleString *field, RedisModuleString *value);
