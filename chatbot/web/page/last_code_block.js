/** The last block of code in Markdown, without its fences; null if there is none. An open block counts. */
export function lastCodeBlock(markdown) {
  const lines = markdown.split("\n");
  let block = null, found = null, fence = "";
  for (const line of lines) {
    const mark = /^ {0,3}(`{3,}|~{3,})/.exec(line)?.[1];
    if (block === null && mark) [block, fence] = [[], mark];
    else if (block !== null && mark && mark[0] === fence[0] && mark.length >= fence.length && line.trim() === mark) {
      found = block.join("\n");
      block = null;
    } else block?.push(line);
  }
  return block ? block.join("\n") : found;
}
