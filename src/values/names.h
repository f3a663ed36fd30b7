/* names.h - a list of C strings: the inputs and outputs of a model, the entry points of a script. The list owns its
 * strings. Any thread. bridge.h has the struct. */
#ifndef VALUES_NAMES_H
#define VALUES_NAMES_H

#include "bridge.h"

void names_append(Names *names, char *name); /* takes the name over */
void names_append_copy(Names *names, const char *name);
void names_free(Names *names);
size_t names_memory(const Names *names); /* bytes */

#endif
