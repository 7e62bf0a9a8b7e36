/* Time, this program's share of its core, and latencies. */
#ifndef MEASURE_H
#define MEASURE_H

#include <stdint.h>
#include <stdio.h>
#include <sys/resource.h>
#include <time.h>

#define NS 1000000000ull

static uint64_t now; /* in ns, at the last read or turn of the loop */
static uint64_t recorded, worst, buckets[64 * 60];

static uint64_t clock_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return now = time.tv_sec * NS + time.tv_nsec;
}

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* For how long this program was ready to run and did not; 0 where the kernel does not tell. */
static double queued_seconds(void)
{
    unsigned long ran = 0, queued = 0;
    FILE *file = fopen("/proc/self/schedstat", "r");
    if (file) {
        if (fscanf(file, "%lu %lu", &ran, &queued) != 2)
            queued = 0;
        fclose(file);
    }
    return queued / 1e9;
}

/* Latencies: each power of two in 64 buckets of one width. */

static void record(uint64_t latency)
{
    unsigned shift = latency < 64 ? 0 : 63 - __builtin_clzll(latency) - 6;
    buckets[64 * shift + (latency >> shift)]++;
    recorded++;
    if (latency > worst)
        worst = latency;
}

static double percentile(double share)
{
    uint64_t wanted = (uint64_t)(share * (recorded - 1)) + 1, passed = 0;
    for (size_t i = 0; recorded && i < sizeof buckets / sizeof *buckets; i++)
        if ((passed += buckets[i]) >= wanted) {
            unsigned shift = i < 128 ? 0 : i / 64 - 1;
            uint64_t value = ((i - 64 * shift) << shift) + (1ull << shift) / 2;
            return (value < worst ? value : worst) / 1e3;
        }
    return 0;
}

#endif
