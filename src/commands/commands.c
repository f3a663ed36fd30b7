/* commands.c - registers the commands of all families. Main thread, at load. */
#include "commands/commands.h"

#include "values/backend.h"

static const char *backend_word(int index) {
    return backend_row(index) ? backend_name(index) : NULL;
}

int commands_register(RedisModuleCtx *ctx) {
    static const Command *const *const families[] = {tensor_commands, model_commands,      model_run_commands,
                                                     script_commands, script_run_commands, dag_commands,
                                                     info_commands,   config_commands};
    static const CommandChoice backends = {.argument = "backend", .word = backend_word};
    tensor_words_init();
    for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++) {
        if (command_table_register(ctx, families[i], &backends) == REDISMODULE_ERR) return REDISMODULE_ERR;
    }
    return REDISMODULE_OK;
}
