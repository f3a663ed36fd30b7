/* commands.c - registers the commands of all families. Main thread, at load. */
#include "commands/commands.h"

#include <stdio.h>
#include <string.h>

#include "values/backend.h"

int commands_register(RedisModuleCtx *ctx) {
    static const Command *const *const families[] = {
        tensor_commands, hash_commands, model_commands,  model_run_commands, script_commands, script_run_commands,
        dag_commands,    info_commands, config_commands, kill_commands,      runs_commands};
    char backends[128] = "backend:";
    for (int i = 0; backend_row(i); i++) {
        size_t size = strlen(backends);
        snprintf(backends + size, sizeof(backends) - size, "%s %s", i ? " |" : "", backend_name(i));
    }
    if (RedisModule_AddACLCategory) RedisModule_AddACLCategory(ctx, COMMAND_CATEGORY); /* another module may have it */
    for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++) {
        if (command_table_register(ctx, families[i], backends) == REDISMODULE_ERR) return REDISMODULE_ERR;
    }
    return REDISMODULE_OK;
}
