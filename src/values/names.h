/* names.h - a list of C strings: the inputs and outputs of a model, the entry points of a script. The list owns its
 * strings. Any thread. bridge.h has the struct. */
#pragma once

#include "bridge.h"

void names_append(Names *names, char *name); /* takes the name over */
void names_copy(Names *to, const Names *from);
void names_free(Names *names);
size_t names_memory(const Names *names); /* bytes */

#define DECLARED_LISTS 4
Names *declared_list(Declared *declared, int index); /* its lists, by number */
void declared_copy(Declared *to, const Declared *from);
void declared_free(Declared *declared);
