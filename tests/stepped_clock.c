/* Preloaded into a process (LD_PRELOAD), it moves the wall clock that the process sees by the number of nanoseconds
   that is in the file STEPPED_CLOCK, from one moment to the next, as a step by NTP does. All other clocks, and what
   waits for them, are left alone. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const int64_t BILLION = 1000000000;
static const volatile int64_t *offset;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("STEPPED_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *memory = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, fd, 0);

    if (memory == MAP_FAILED)
        abort();
    offset = memory;
    close(fd);
}

/* Not libc's clock_gettime, which would have to be looked up, and that allocates memory: jemalloc asks for the time
   before it can. */
int clock_gettime(clockid_t id, struct timespec *at)
{
    if (syscall(SYS_clock_gettime, id, at) != 0)
        return -1;
    if (offset && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
        int64_t moved = at->tv_sec * BILLION + at->tv_nsec + *offset;

        at->tv_sec = moved / BILLION;
        at->tv_nsec = moved % BILLION;
    }
    return 0;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone)
{
    struct timespec now;

    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0)
        return -1;
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    if (at)
        *at = now.tv_sec;
    return now.tv_sec;
}
