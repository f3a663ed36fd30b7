/* divisions.h - integer divisions of libraries whose result does not fit. */
#pragma once

/* At load, main thread. */
void divisions_init(void);
