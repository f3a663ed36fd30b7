/* command_table.c - registers commands from their descriptions (command_table.h). Main thread, at load.
 *
 * A small parser makes Redis's tree of arguments from a command's syntax. Redis copies the tree, so it lies in the
 * parser. The parser's arrays are bounded. A syntax that is wrong or does not fit keeps the module from loading. */
#include "redis/command_table.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define MAX_TEXT 2048
#define MAX_LISTS 64
#define MAX_ARGS 16

typedef struct ArgList {
    RedisModuleCommandArg args[MAX_ARGS + 1]; /* a zeroed one ends them */
    int count;
} ArgList;

typedef struct SyntaxParser {
    const Command *command;
    const char *choice;  /* the syntax of one argument */
    const char *rest;    /* of the syntax */
    char text[MAX_TEXT]; /* copies of words, each followed by the same in lower case */
    size_t text_size;
    ArgList lists[MAX_LISTS];
    int nlists;
    int nkeys; /* that the syntax has named */
    int failed;
} SyntaxParser;

static const char *copy_word(SyntaxParser *p, const char *word, size_t size) {
    p->failed |= size == 0 || p->text_size + 2 * (size + 1) > MAX_TEXT;
    if (p->failed) return "\0";
    char *copy = p->text + p->text_size;
    memcpy(copy, word, size);
    for (size_t i = 0; i < size; i++) copy[size + 1 + i] = (char)tolower(word[i]);
    p->text_size += 2 * (size + 1);
    return copy;
}

static const char *lower_case(const char *copy) { return copy + strlen(copy) + 1; }

/* Bytes of the next word; a bracket is one. 0: the end. */
static size_t word_size(SyntaxParser *p) {
    p->rest += strspn(p->rest, " ");
    return *p->rest == '[' || *p->rest == ']' ? 1 : strcspn(p->rest, " []");
}

static const char *next_word(SyntaxParser *p) {
    size_t size = word_size(p);
    p->rest += size;
    return copy_word(p, p->rest - size, size);
}

static int next_is(SyntaxParser *p, const char *word) {
    return word_size(p) == strlen(word) && strncmp(p->rest, word, strlen(word)) == 0;
}

static int accept(SyntaxParser *p, const char *word) {
    if (!next_is(p, word)) return 0;
    p->rest += strlen(word);
    return 1;
}

static ArgList *new_list(SyntaxParser *p) {
    p->failed |= p->nlists == MAX_LISTS;
    return &p->lists[p->failed ? 0 : p->nlists++];
}

static RedisModuleCommandArg *add(SyntaxParser *p, ArgList *list, const char *name, int type) {
    p->failed |= list->count == MAX_ARGS;
    RedisModuleCommandArg *arg = &list->args[p->failed ? 0 : list->count++];
    *arg = (RedisModuleCommandArg){.name = name, .type = type, .key_spec_index = -1};
    return arg;
}

/* Adds inner's arguments as one: several are a block with the name of the first. */
static RedisModuleCommandArg *fold(SyntaxParser *p, ArgList *list, ArgList *inner) {
    RedisModuleCommandArg *first = &inner->args[0];
    p->failed |= inner->count == 0;
    if (p->failed) return first;
    const char *name = first->token ? lower_case(first->token) : first->name;
    RedisModuleCommandArg *arg = add(p, list, name, REDISMODULE_ARG_TYPE_BLOCK);
    arg->subargs = first;
    if (inner->count == 1) *arg = *first;
    return arg;
}

static int is_integer(const char *name) {
    static const char *const integers[] = {"bytes", "count", "dimension", "max", "milliseconds", "min"};
    const char *last = strrchr(name, '_');
    for (size_t i = 0; i < sizeof(integers) / sizeof(integers[0]); i++) {
        if (strcmp(last ? last + 1 : name, integers[i]) == 0) return 1;
    }
    return 0;
}

static void parse_group(SyntaxParser *p, ArgList *list);

/* `name`, `name [name ...]` or, after a token, `name [TOKEN name ...]`. */
static void parse_value(SyntaxParser *p, ArgList *list, const char *token) {
    const char *name = next_word(p), *start = p->rest;
    size_t size = strlen(name);
    if (strncmp(name, p->choice, size) == 0 && p->choice[size] == ':') {
        p->rest = p->choice;
        parse_group(p, list);
        p->rest = start;
        return;
    }
    const CommandKey *key = &p->command->keys[p->nkeys];
    RedisModuleCommandArg *arg = add(p, list, name, REDISMODULE_ARG_TYPE_STRING);
    if (key->argument && strcmp(name, key->argument) == 0) {
        arg->type = REDISMODULE_ARG_TYPE_KEY;
        arg->key_spec_index = p->nkeys++;
    } else if (is_integer(name)) {
        arg->type = REDISMODULE_ARG_TYPE_INTEGER;
    }
    int flags = REDISMODULE_CMD_ARG_MULTIPLE;
    if (!accept(p, "[")) return;
    if (token && accept(p, token)) flags |= REDISMODULE_CMD_ARG_MULTIPLE_TOKEN;
    if (accept(p, name) && accept(p, "...") && accept(p, "]")) {
        arg->flags = flags;
    } else {
        p->rest = start;
    }
}

/* A value, a token, or a token and the values that follow it. */
static void parse_element(SyntaxParser *p, ArgList *list) {
    if (islower(*p->rest)) {
        parse_value(p, list, NULL);
        return;
    }
    const char *token = next_word(p);
    p->failed |= !isupper(*token) && strcmp(token, "|>") != 0;
    ArgList *values = new_list(p);
    while (word_size(p) && islower(*p->rest) && !p->failed) parse_value(p, values, token);
    if (values->count == 0) {
        add(p, list, lower_case(token), REDISMODULE_ARG_TYPE_PURE_TOKEN)->token = token;
        return;
    }
    RedisModuleCommandArg *arg = fold(p, list, values);
    arg->token = token;
    if (values->count > 1) arg->name = lower_case(token);
}

static void parse_sequence(SyntaxParser *p, ArgList *list) {
    while (!p->failed && word_size(p) && !next_is(p, "]") && !next_is(p, "|")) {
        if (accept(p, "[")) {
            ArgList *inner = new_list(p);
            parse_group(p, inner);
            fold(p, list, inner)->flags |= REDISMODULE_CMD_ARG_OPTIONAL;
            p->failed |= !accept(p, "]");
        } else {
            parse_element(p, list);
        }
    }
}

/* A sequence, or `name: sequence | sequence ...`, which is one argument. */
static void parse_group(SyntaxParser *p, ArgList *list) {
    size_t size = word_size(p);
    if (size == 0 || p->rest[size - 1] != ':') {
        parse_sequence(p, list);
        return;
    }
    ArgList *choices = new_list(p);
    add(p, list, copy_word(p, p->rest, size - 1), REDISMODULE_ARG_TYPE_ONEOF)->subargs = choices->args;
    p->rest += size;
    do {
        ArgList *inner = new_list(p);
        parse_sequence(p, inner);
        fold(p, choices, inner);
    } while (accept(p, "|"));
}

/* Words that count keys come at `from` or later. */
static RedisModuleCommandKeySpec key_spec(const CommandKey *key, int from) {
    RedisModuleCommandKeySpec spec = {.flags = key->access};
    if (key->counted == NULL) {
        spec.begin_search_type = REDISMODULE_KSPEC_BS_INDEX;
        spec.bs.index.pos = 1;
        spec.find_keys_type = REDISMODULE_KSPEC_FK_RANGE;
        spec.fk.range.keystep = 1;
        return spec;
    }
    spec.flags |= REDISMODULE_CMD_KEY_INCOMPLETE;
    spec.begin_search_type = REDISMODULE_KSPEC_BS_UNKNOWN;
    spec.find_keys_type = REDISMODULE_KSPEC_FK_UNKNOWN;
    if (*key->counted) {
        spec.begin_search_type = REDISMODULE_KSPEC_BS_KEYWORD;
        spec.bs.keyword.keyword = key->counted;
        spec.bs.keyword.startfrom = from;
        spec.find_keys_type = REDISMODULE_KSPEC_FK_KEYNUM;
        spec.fk.keynum.firstkey = spec.fk.keynum.keystep = 1;
    }
    return spec;
}

static int set_categories(RedisModuleCommand *created, const Command *command) {
    const char *kind = strstr(command->flags, "readonly") ? "read" : "write";
    if (strstr(command->flags, "admin")) kind = "admin dangerous";
    char list[64];
    snprintf(list, sizeof(list), "%s slow%s", kind, RedisModule_AddACLCategory ? " " COMMAND_CATEGORY : "");
    return RedisModule_SetCommandACLCategories ? RedisModule_SetCommandACLCategories(created, list) : REDISMODULE_OK;
}

/* Clients of a cluster cannot tell from a key where to send a command that has none. */
static const char *tips(const Command *command) {
    if (command->tips) return command->tips;
    if (strstr(command->flags, "admin") && !command->keys[0].access)
        return "request_policy:all_nodes response_policy:all_succeeded";
    return command->keys[0].access ? NULL : "nondeterministic_output_order request_policy:all_shards";
}

static int register_command(RedisModuleCtx *ctx, const Command *command, const char *choice) {
    static const RedisModuleCommandInfoVersion version = {
        .version = 1,
        .sizeof_historyentry = 2 * sizeof(char *),
        .sizeof_keyspec = sizeof(RedisModuleCommandKeySpec),
        .sizeof_arg = sizeof(RedisModuleCommandArg),
    };
    int first = command->keys[0].access && command->keys[0].counted == NULL; /* the first argument is a key */
    RedisModuleCommandKeySpec specs[COMMAND_MAX_KEYS + 1] = {0};
    for (int i = 0; command->keys[i].access; i++) specs[i] = key_spec(&command->keys[i], 1 + first);
    SyntaxParser parser = {.command = command, .choice = choice, .rest = command->syntax ? command->syntax : ""};
    ArgList *args = new_list(&parser);
    parse_group(&parser, args);
    if (parser.failed || *parser.rest || command->keys[parser.nkeys].argument)
        return log_refusal(ctx, "the syntax of %s is wrong before '%s', or lacks a key", command->name, parser.rest);
    RedisModuleCommandInfo info = {.version = &version,
                                   .summary = command->summary,
                                   .complexity = command->complexity ? command->complexity : "O(1)",
                                   .since = command->since ? command->since : "1.0.0",
                                   .tips = tips(command),
                                   .arity = command->arity,
                                   .key_specs = specs,
                                   .args = args->count ? args->args : NULL};
    int refused = RedisModule_CreateCommand(ctx, command->name, command->handler, command->flags, first, first, first);
    if (!refused) {
        RedisModuleCommand *created = RedisModule_GetCommand(ctx, command->name);
        refused = set_categories(created, command) || RedisModule_SetCommandInfo(created, &info);
    }
    if (refused) RedisModule_Log(ctx, "warning", "the server refused the command %s", command->name);
    return refused;
}

int command_table_register(RedisModuleCtx *ctx, const Command *const *commands, const char *choice) {
    for (; *commands; commands++) {
        if (register_command(ctx, *commands, choice) == REDISMODULE_ERR) return REDISMODULE_ERR;
    }
    return REDISMODULE_OK;
}
