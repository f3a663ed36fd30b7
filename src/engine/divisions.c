/* divisions.c - divisions of integers that have no result do not end the process (divisions.h). Main thread at load and
 * at CONFIG SET; the handler runs in the thread that divides.
 *
 * x86 traps when a number is divided by zero, and when the smallest number is divided by -1. Libraries do not check for
 * that everywhere, and models and inputs choose what is divided. So the division gets the result that it has on Arm
 * and, for -1, in NumPy; then the thread goes on. The smallest number divided by -1 is the smallest number, remainder
 * 0. Any number divided by zero is 0, and the number remains.
 *
 * Divisions of the server, in its own code or on its main thread, which runs no library, still end in its crash report.
 * In an engine process, all threads may run libraries.
 */
#include "engine/divisions.h"

#ifndef __x86_64__
void divisions_init(RedisModuleCtx *ctx) {} /* Arm does not trap */
#else
#include <link.h>
#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include "redis/event_loop.h"

#define DIV 6 /* numbers among the instructions of the groups F6 and F7 */
#define IDIV 7
#define IN_A_REGISTER 3 /* of ModRM's field mod */
#define WITH_SIB 4      /* of ModRM's field rm */
#define NO_BASE 5       /* of ModRM's rm and SIB's base, where mod is 0: four bytes of an address follow */
#define REX_W 8         /* 64 bits */

static struct sigaction servers; /* its own handler */
static int is_server;            /* this process, and not an engine process */
static struct {
    uintptr_t begin, end;
} program; /* the server's code */

static int find_program(struct dl_phdr_info *info, size_t size, void *unused) {
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        if (part->p_type != PT_LOAD || !(part->p_flags & PF_X)) continue;
        program.begin = info->dlpi_addr + part->p_vaddr;
        program.end = program.begin + part->p_memsz;
    }
    return 1; /* the first one is the program */
}

/* Bytes of ModRM and what belongs to it. */
static int operand_size(const unsigned char *modrm) {
    int mod = *modrm >> 6, base = *modrm & 7, size = 1;
    if (mod == IN_A_REGISTER) return size;
    if (base == WITH_SIB) base = modrm[size++] & 7;
    return size + (mod == 1 ? 1 : mod == 2 || base == NO_BASE ? 4 : 0);
}

/* Sets quotient and remainder of a division of so many bits. The dividend is in AX for 8 bits, else in the parts of RDX
 * and RAX of that size. */
static void set_results(greg_t *registers, int bits, int is_signed) {
    uint64_t mask = ~0ULL >> (64 - bits), sign = 1ULL << (bits - 1);
    uint64_t rax = (uint64_t)registers[REG_RAX], rdx = (uint64_t)registers[REG_RDX];
    uint64_t low = rax & mask, high = bits == 8 ? rax >> 8 & mask : rdx & mask;
    int is_smallest = is_signed && low == sign && high == mask;
    uint64_t quotient = is_smallest ? low : 0, remainder = is_smallest ? 0 : low;
    if (bits == 8) {
        registers[REG_RAX] = (greg_t)((rax & ~0xffffULL) | remainder << 8 | quotient);
        return;
    }
    uint64_t kept = bits == 16 ? ~mask : 0; /* writing 32 bits clears the rest */
    registers[REG_RAX] = (greg_t)((rax & kept) | quotient);
    registers[REG_RDX] = (greg_t)((rdx & kept) | remainder);
}

/* Performs the division at the thread's address, and goes on behind it. Returns 0 if there is none. */
static int divide(greg_t *registers) {
    const unsigned char *at = (const unsigned char *)registers[REG_RIP];
    int is_short = 0;
    for (; *at == 0x66 || *at == 0x2e || *at == 0x3e || *at == 0x64 || *at == 0x65; at++) is_short |= *at == 0x66;
    int rex = (*at & 0xf0) == 0x40 ? *at++ : 0;
    int number = at[1] >> 3 & 7;
    if ((*at & 0xfe) != 0xf6 || (number != DIV && number != IDIV)) return 0;
    set_results(registers, *at == 0xf6 ? 8 : rex & REX_W ? 64 : is_short ? 16 : 32, number == IDIV);
    registers[REG_RIP] = (greg_t)(at + 1 + operand_size(at + 1));
    return 1;
}

static void on_division(int signal, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    uintptr_t address = (uintptr_t)registers[REG_RIP];
    int is_trap = info->si_code == FPE_INTDIV;
    int is_servers = is_server && ((address >= program.begin && address < program.end) || gettid() == getpid());
    if (is_trap && !is_servers && divide(registers)) return;
    sigaction(SIGFPE, &servers, NULL);
    if (!is_trap) raise(signal); /* else the division traps again */
}

/* The server sets its handlers anew at CONFIG SET crash-log-enabled. */
static void install(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t subevent, void *data) {
    struct sigaction ours = {.sa_sigaction = on_division, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK}, before;
    if (sigaction(SIGFPE, &ours, &before) == 0 && before.sa_sigaction != on_division) servers = before;
}

void divisions_init(RedisModuleCtx *ctx) {
    is_server = ctx != NULL;
    install(ctx, (RedisModuleEvent){REDISMODULE_EVENT_CONFIG, 1}, 0, NULL);
    if (!is_server) return;
    dl_iterate_phdr(find_program, NULL);
    listen_to(ctx, REDISMODULE_EVENT_CONFIG, install);
}
#endif
