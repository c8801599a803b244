"""What the pages of runs and of inspected texts say, in English and in Chinese."""

from __future__ import annotations

WORDS: dict[str, tuple[str, str]] = {
    # states of a run
    "finished": ("finished", "已完成"),
    "stopped": ("stopped", "已停止"),
    "running": ("running", "运行中"),
    "interrupted": ("interrupted", "已中断"),
    "empty": ("no event yet", "尚无记录"),
    # facts
    "time": ("time", "用时"),
    "parameters": ("parameters", "参数"),
    "seen": ("tokens seen", "已见词元"),
    "steps": ("steps", "步数"),
    "device": ("device", "设备"),
    "seed": ("seed", "随机种子"),
    "light": ("Light or dark", "浅色或深色"),
    # sections
    "results": ("Results", "结果"),
    "curves": ("Curves", "曲线"),
    "completions": ("What it writes", "它写出的文字"),
    "samples": ("Along the way", "训练途中"),
    "diversity": ("How varied the samples are", "样本有多丰富"),
    "choices": ("What was chosen for you, and why", "替你做的选择及理由"),
    "skips": ("Steps left out", "跳过的步"),
    "notes": ("Notes", "说明"),
    "next": ("What to type next", "接下来可以输入"),
    "details": ("Configuration and machine", "配置与机器"),
    # results
    "name": ("", ""),
    "loss": ("loss", "损失"),
    "perplexity": ("perplexity", "困惑度"),
    "word_perplexity": ("perplexity per word", "按词困惑度"),
    "bits_per_byte": ("bits per byte", "每字节比特数"),
    "tokens_per_second": ("tokens a second", "每秒词元"),
    "tokens": ("tokens", "词元"),
    "words": ("words", "词"),
    "bytes": ("bytes", "字节"),
    "context": ("context", "上下文"),
    "stride": ("stride", "步长"),
    "lower": (
        "On held-out text, lower is better. Percentages are against {baseline}.",
        "在留出文本上评测，越低越好。百分比是相对于 {baseline} 的差别。",
    ),
    "lower_alone": ("On held-out text, lower is better.", "在留出文本上评测，越低越好。"),
    "better": ("{percent} fewer bits per byte than {baseline}", "每字节比特数比 {baseline} 低 {percent}"),
    "worse": ("{percent} more bits per byte than {baseline}", "每字节比特数比 {baseline} 高 {percent}"),
    # curves
    "train_smooth": ("training, smoothed", "训练（平滑）"),
    "train_raw": ("training", "训练"),
    "validation": ("validation", "验证"),
    "step": ("step", "步"),
    "log": ("log scale", "对数刻度"),
    "lr": ("learning rate", "学习率"),
    "grad_norm": ("gradient norm", "梯度范数"),
    "rate": ("tokens a second", "每秒词元"),
    "no_curve": ("The first step has not been written yet.", "第一步尚未写入。"),
    "noscript": (
        "The curves need JavaScript; everything else is here.",
        "曲线需要 JavaScript；其余内容都在。",
    ),
    # samples
    "some": ("{shown} of {total} shown.", "共 {total} 个，显示 {shown} 个。"),
    "prompt_empty": ("(no prompt)", "（无提示）"),
    "distinct": ("different {n}-grams", "不同的 {n}-gram"),
    "distinct_1": ("different tokens", "不同的词元"),
    "repetition": ("repeated", "重复"),
    "diversity_says": (
        "Share of the n-grams in the samples that are different, and share that repeats what the sample already said.",
        "样本中互不相同的 n-gram 所占的比例，以及重复前文的比例。",
    ),
    "skips_says": (
        "A loss or gradient that was not finite, or far from what is usual, never reached the weights.",
        "非有限值或远离常态的损失与梯度从未写入权重。",
    ),
    "none_skipped": ("None: every batch was sound.", "没有：每个批次都正常。"),
    "rolled_back": ("weights back to {to}", "权重退回到 {to}"),
    # next commands
    "next_chat": ("Talk to it", "和它对话"),
    "next_generate": ("Let it continue a text", "让它续写"),
    "next_evaluate": ("Measure it on a text of yours", "在你自己的文本上评测"),
    "next_resume": ("Go on with this run", "继续这次训练"),
    "next_own": ("Train on your own text", "用你自己的文本训练"),
    "next_compare": ("See all runs side by side", "并排查看所有运行"),
    "copy": ("copy", "复制"),
    "lead": (
        "{family}, {parameters} parameters, trained on {data} in {time}.",
        "{family}，{parameters} 个参数，在 {data} 上训练，用时 {time}。",
    ),
    # the page of a text
    "masked": (
        "{family}, {parameters} parameters. Each token is hidden in turn, and the model says what stands there.",
        "{family}，{parameters} 个参数。依次遮住每个词元，由模型说出那里应是什么。",
    ),
    "replaced": (
        "{family}, {parameters} parameters. The model says of each token how likely another model put it there.",
        "{family}，{parameters} 个参数。模型判断每个词元被另一个模型替换过的可能性。",
    ),
    "next_token": (
        "{family}, {parameters} parameters. At each place the model says what it expects after the tokens before.",
        "{family}，{parameters} 个参数。模型在每个位置说出它根据前文预期的下一个词元。",
    ),
    "attention_only": (
        "{family}, {parameters} parameters. Where each token looks.",
        "{family}，{parameters} 个参数。每个词元看向哪里。",
    ),
    "pseudo_perplexity": ("pseudo-perplexity", "伪困惑度"),
    "layers": ("layers", "层"),
    "heads": ("heads a layer", "每层注意力头"),
    "taken_for_replaced": ("taken for replaced", "判为被替换"),
    "surprise": ("Token by token", "逐个词元"),
    "surprise_says": (
        "The stronger the colour, the less the model expected the token. Choose one to see what it expected.",
        "颜色越深，模型越没有料到这个词元。点选一个，看看它预期的是什么。",
    ),
    "replaced_says": (
        "The stronger the colour, the surer the model is that the token was replaced.",
        "颜色越深，模型越确信这个词元被替换过。",
    ),
    "expected": ("expected", "意料之中"),
    "surprising": ("surprising", "出乎意料"),
    "original": ("original", "原文"),
    "swapped": ("replaced", "被替换"),
    "after": ("What comes next", "接下来"),
    "bits": ("bits", "比特"),
    "no_token": ("a mask: it has no token of its own", "这里是掩码，没有原来的词元"),
    "attention": ("Attention", "注意力"),
    "attention_says": (
        "A row is a token, and the squares in it are where it looks: they add up to 1. Choose a head among the "
        "small maps, a layer to each line; the last column is the mean of a layer's heads.",
        "每一行是一个词元，行内的方格表示它看向哪里，合计为 1。在小图中选一个头，每行一层；最后一列是该层各头的平均。",
    ),
    "layer": ("layer {n}", "第 {n} 层"),
    "head": ("head {n}", "第 {n} 头"),
    "mean": ("mean of the heads", "各头平均"),
    "left_out": (
        "The text is {total} tokens long; the first {shown} are read and shown.",
        "文本共 {total} 个词元；只读取并显示前 {shown} 个。",
    ),
    "noscript_maps": (
        "The maps need JavaScript; everything else is here.",
        "注意力图需要 JavaScript；其余内容都在。",
    ),
}
