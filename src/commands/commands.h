/* commands.h - the commands, one file a family. Main thread only. */
#pragma once

#include "redis/command_table.h"

/* Those of each family, ended by NULL. */
extern const Command *const tensor_commands[], *const model_commands[], *const model_run_commands[];
extern const Command *const script_commands[], *const script_run_commands[], *const dag_commands[],
                                                                                 *const hash_commands[];
extern const Command *const info_commands[], *const config_commands[], *const kill_commands[];
extern const Command *const runs_commands[];

int info_register(RedisModuleCtx *ctx); /* at load: the module's sections of INFO */

/* What else tells INFO of itself: a section that comes last. */
void info_set_more(void (*add)(RedisModuleInfoCtx *ctx));

/* At load: all commands. */
int commands_register(RedisModuleCtx *ctx);
