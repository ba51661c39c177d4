/*
 * Runs a network compiled by goshawk on a test set and prints its accuracy and latency.
 *
 *     example IMAGES.idx LABELS.idx
 *
 * C99 (and C++), no library but the compiled network. `fashion.h` is the header that `goshawk compile` wrote beside
 * the library, so the same source serves every bit setting: ../demo.sh builds it against the INT8 and against the
 * mixed INT4/INT8 network.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "fashion.h"

enum { PIXELS = 28 * 28, CLASSES = 10 };

/* The network works in memory that its caller owns: FASHION_ARENA_BYTES, 64-byte aligned, one arena for each thread. */
static unsigned char memory[FASHION_ARENA_BYTES + 63];

static void fail(const char *what, const char *file)
{
    fprintf(stderr, "example: %s: %s\n", file, what);
    exit(2);
}

/* Reads an idx file of unsigned bytes: two zero bytes, 8, rank, the dimensions as big-endian 32-bit numbers, then the
 * elements. `row` is the number of elements that a row must have, `*count` becomes the number of rows. */
static unsigned char *read_idx(const char *file, int rank, unsigned long row, unsigned long *count)
{
    unsigned char head[16];
    unsigned char *bytes;
    unsigned long elements = 1;
    int i;
    FILE *f = fopen(file, "rb");

    if (!f)
        fail("cannot open it", file);
    if (fread(head, 1, 4 + 4 * (size_t)rank, f) != 4 + 4 * (size_t)rank || head[0] || head[1] || head[2] != 8
        || head[3] != rank)
        fail("not an idx file of unsigned bytes with the rank that is needed here", file);
    for (i = 0; i < rank; i++) {
        const unsigned char *d = head + 4 + 4 * i;
        unsigned long n = (unsigned long)d[0] << 24 | (unsigned long)d[1] << 16 | (unsigned long)d[2] << 8 | d[3];

        if (i == 0)
            *count = n;
        else
            elements *= n;
    }
    if (elements != row || *count == 0 || *count > 1000000)
        fail("its dimensions do not fit", file);
    bytes = (unsigned char *)malloc(row * *count);
    if (!bytes)
        fail("out of memory", file);
    if (fread(bytes, row, *count, f) != *count)
        fail("it ends early", file);
    fclose(f);
    return bytes;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    unsigned long count, labelled, i, right = 0;
    unsigned char *images, *labels;
    unsigned char *arena = memory + (64 - (uintptr_t)memory % 64) % 64;
    double *microseconds;
    float image[PIXELS], logits[CLASSES];
    fashion_inputs_f32 in;
    fashion_outputs_f32 out;

    if (argc != 3) {
        fprintf(stderr, "usage: %s IMAGES.idx LABELS.idx\n", argv[0]);
        return 2;
    }
    images = read_idx(argv[1], 3, PIXELS, &count);
    labels = read_idx(argv[2], 1, 1, &labelled);
    if (labelled != count)
        fail("not as many labels as images", argv[2]);
    microseconds = (double *)malloc(count * sizeof *microseconds);
    if (!microseconds)
        fail("out of memory", argv[0]);

    in.image = image;
    out.logits = logits;
    for (i = 0; i < count; i++) {
        clock_t start;
        int k, code, best = 0;

        for (k = 0; k < PIXELS; k++)
            image[k] = (float)images[i * PIXELS + (unsigned long)k] / 255.0f;
        start = clock();
        code = fashion_run_f32(&in, &out, arena, NULL);
        microseconds[i] = (double)(clock() - start) * 1e6 / CLOCKS_PER_SEC;
        if (code != GOSHAWK_OK) {
            fprintf(stderr, "example: fashion_run_f32 returned %d, see fashion.h\n", code);
            return 1;
        }
        for (k = 1; k < CLASSES; k++)
            if (logits[k] > logits[best])
                best = k;
        right += best == labels[i];
    }
    qsort(microseconds, count, sizeof *microseconds, ascending);
    printf("images    %lu\n", count);
    printf("accuracy  %.2f %%\n", 100.0 * (double)right / (double)count);
    printf("latency   min %.0f us, median %.0f us (one core, processor time)\n", microseconds[0],
           microseconds[count / 2]);
    printf("arena     %lu bytes\n", (unsigned long)FASHION_ARENA_BYTES);
    free(images);
    free(labels);
    free(microseconds);
    return 0;
}
